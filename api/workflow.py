"""The desk: every step on orders, studies and drafts, one method each; routes, listeners and jobs call only this."""
from typing import Any

from api.alert_steps import AlertSteps
from api.automation import AutomationSteps
from api.cds_steps import CdsSteps
from api.connection_steps import ConnectionSteps
from api.draft_steps import DraftSteps
from api.fhir_steps import FhirSteps
from api.model_versions import ModelSteps
from api.order_steps import OrderSteps
from api.procedure_steps import ProcedureSteps
from api.report_steps import ReportSteps
from api.result_steps import ResultSteps
from api.sentence_steps import SentenceSteps
from api.settings import Settings
from api.shadow import ShadowSteps
from api.store import Store
from api.study_steps import StudySteps


class Desk(OrderSteps, AutomationSteps, ModelSteps, ShadowSteps, ProcedureSteps, StudySteps, AlertSteps, DraftSteps, SentenceSteps, ReportSteps,
           ResultSteps, CdsSteps, FhirSteps, ConnectionSteps):
    """`suggester` has .suggest(order) -> Suggestion, `reporter` .draft(study, order, priors) -> (Draft, masks by name).

    `shadow` is a second suggester, or None: what it says is stored and shown to nobody.
    Either may be None, or raise: the order or study then goes on to a person without a suggestion or a draft.
    Steps by a person are audited here; looks at data are audited by the routes.
    """

    def __init__(self, store: Store, settings: Settings, suggester: Any = None, reporter: Any = None, shadow: Any = None) -> None:
        self.store, self.settings = store, settings
        self.suggester, self.reporter, self.shadow = suggester, reporter, shadow
        self._book: Any = None
        store.quiet_period_s = settings.quiet_period_s
        store.fetches_priors = any(node.priors for node in settings.dicom_nodes)

"""FHIR and CDS Hooks bodies for the tests, and the two public validators where they are installed."""
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest


def service_request(text="fall ?bleed", exam="MR BRAIN", id="sr1", patient="p1", **more):
    return {"resourceType": "ServiceRequest", "id": id, "status": "draft", "intent": "order", "subject": {"reference": f"Patient/{patient}"},
            "code": {"text": exam}, "reasonCode": [{"text": text}], **more}


def bundle(*resources):
    return {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": resource} for resource in resources]}


def observation(code, patient="p1", **value):
    return {"resourceType": "Observation", "status": "final", "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
            "subject": {"reference": f"Patient/{patient}"}, **value}


PATIENT = {"resourceType": "Patient", "id": "p1", "gender": "female", "birthDate": "1960-01-01",
           "identifier": [{"type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]}, "value": "M1"}],
           "name": [{"family": "Müller", "given": ["Eva"]}]}


def hook_call(*requests, hook="order-sign", **more):
    requests = requests or (service_request(),)
    return {"hook": hook, "hookInstance": "d1577c69-dfbe-44ad-ba6d-3e05e953b2ea",
            "context": {"userId": "Practitioner/1", "patientId": "p1", "draftOrders": bundle(*requests),
                        **({"selections": [f"ServiceRequest/{row['id']}" for row in requests]} if hook == "order-select" else {})}, **more}


def errors_of(resource):
    """What fhirkit-rs says is wrong."""
    fhirkit = pytest.importorskip("fhirkit", reason="fhirkit-rs is not installed (pip install fhirkit-rs)")
    return [str(issue) for issue in fhirkit.validate(resource) if str(issue).startswith("error")]


NODE_FHIR = Path(os.environ.get("WETREAD_NODE_FHIR", "/usr/local/lib/wetread-fhir"))     # where .ci/run puts it
CHECK = """const { Fhir } = require('fhir'); const fhir = new Fhir();
const rows = JSON.parse(require('fs').readFileSync(0, 'utf8'));
console.log(JSON.stringify(rows.map(row => fhir.validate(row, {errorOnUnexpected: true}).messages
  .filter(m => m.severity === 'error' || m.severity === 'fatal').map(m => `${m.location}: ${m.message}`))));"""


def node_errors(resources):
    """What npm's fhir says is wrong with each, in one run."""
    if not shutil.which("node") or not (NODE_FHIR / "node_modules" / "fhir").is_dir():
        pytest.skip(f"npm's fhir is not installed (npm install --prefix {NODE_FHIR} fhir)")
    done = subprocess.run(["node", "-e", CHECK], input=json.dumps(resources), capture_output=True, text=True, cwd=NODE_FHIR, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
    return json.loads(done.stdout)

"""The house stands: dependence runs one way, imports are absolute and literal."""
import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINE = ["data", "nlp", "vision", "api"]     # each may import itself and what stands left of it
SHELL_ONLY = {"socket", "sqlite3", "sqlalchemy", "fastapi", "uvicorn", "pynetdicom", "asyncio", "httpx"}
FILES = sorted(p for name in LINE for p in (ROOT / name).rglob("*.py"))


def imports(path: Path) -> list[tuple[str, int, bool]]:
    """(module, level, bare) of every import in a file, also those inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0, "." not in alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.level, False))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_stands_left_of_it(path):
    own = LINE.index(path.relative_to(ROOT).parts[0])
    for module, level, bare in imports(path):
        assert level == 0, "relative import"
        top = module.split(".")[0]
        if top in LINE:
            assert LINE.index(top) <= own, f"{top} stands right of {LINE[own]}"
            assert not bare, f"bare `import {module}`; write `from {module}.x import y`"
        if LINE[own] in ("nlp", "vision"):
            assert top not in SHELL_ONLY, f"{LINE[own]} is pure, {top} belongs to api"


OUTSIDE = {"InputError", "NotFound", "StateError", "SeriesError", "SimulatorError", "BookError", "ModelError", "OrderRejected", "MessageError"}


def test_a_coded_error_says_what_was_expected_or_the_cure():
    """Errors about what came from outside, where their text stands in the code: "expected ...", or "; " and what to do."""
    bare = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in OUTSIDE and node.args:
                text = " ".join(part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant) and isinstance(part.value, str))
                if len(text) > 15 and not re.search(r"; |expected", text):
                    bare.append(f"{path.relative_to(ROOT)}:{node.lineno} {text}")
    assert not bare


def test_help_imports_no_torch():
    """`wetread --help` stays quick: torch takes seconds to import."""
    import subprocess
    import sys

    code = "import sys, api.cli\nassert not {'torch', 'transformers', 'spacy'} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_error_code_stands_in_the_reference():
    import data.errors

    reference = (ROOT / "docs/reference.md").read_text()
    classes = [c for c in vars(data.errors).values() if isinstance(c, type) and issubclass(c, data.errors.WetreadError)]
    assert len({c.code for c in classes}) == len(classes), "a code is used twice"
    assert [c.__name__ for c in classes if f"| {c.code} | {c.__name__} |" not in reference] == []


def test_every_key_of_a_findings_evidence_stands_in_the_page_on_reports():
    from dataclasses import fields

    from data.records import ImageEvidence

    page = (ROOT / "docs/reports.md").read_text()
    assert [field.name for field in fields(ImageEvidence) if f"`{field.name}`" not in page.partition("# Where a finding is seen")[2]] == []


def test_what_a_draft_takes_in_time_stands_on_one_page_and_the_other_refers_to_it():
    """Two pages with the same figure differ after the next run."""
    source, other = ((ROOT / f"docs/{name}.md").read_text() for name in ("models", "reports"))
    assert "tokens a CPU-second" in source and "s a draft" in source
    assert not re.search(r"tokens a CPU-second|CPU seconds from files|fp32; int8", other)
    assert other.count("](models.md#report-wording-datamodelsreport)") >= 2


# what opens connections to elsewhere, and what says where to: the settings' own lists, or the person at the command line
CALLERS = {"api/fhir/fetch.py": "fhir_servers", "api/cds/trust.py": "cds_clients", "api/demo.py": "our own server",
           "api/bench_day.py": "our own server", "api/bench_cds.py": "command line", "api/dicom/client.py": "command line",
           "api/dicom/nodes.py": "dicom_nodes", "api/hl7/client.py": "command line", "api/hl7/sender.py": "outbox"}
CALLS = re.compile(r"\bhttpx\b|\burllib\.request\b|\burlopen\b|\brequests\.|\bcreate_connection\b|\bopen_connection\b|\.associate\(|\.connect\(\(")


def test_only_what_a_list_of_the_settings_allows_opens_connections_to_elsewhere():
    """No address that comes from outside is followed unless it stands on a list: a new caller must say which."""
    found = {str(path.relative_to(ROOT)) for path in FILES if CALLS.search(path.read_text())}
    assert found == set(CALLERS)

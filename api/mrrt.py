"""A report template as IHE MRRT has it (Management of Radiology Report Templates, RAD TF-3): HTML5 with coded sections and fields."""
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from data.report_templates import ReportTemplate

# our sections -> (id of RSNA RadReport, its heading, LOINC code of the section)
SECTIONS = {
    "technique": ("procedureInformation", "Procedure Information", "55111-9", "Current imaging procedure descriptions"),
    "indication": ("clinicalInformation", "Clinical Information", "55752-0", "Clinical information"),
    "comparison": ("comparisons", "Comparison", "18834-2", "Radiology Comparison study"),
    "findings": ("findings", "Findings", "59776-5", "Procedure findings"),
    "impression": ("impression", "Impression", "19005-8", "Radiology Imaging study [Interpretation]"),
}
PUBLISHER = "Wetread"


def laid_out(template: ReportTemplate, record: Mapping[str, Any] | None) -> dict[str, Any]:
    """The template with a draft's sentences in its fields; what belongs in none stands under `other`. Without a draft every field is empty.

    Nothing is written here: a field without a sentence stays empty, and is not normal.
    """
    sentences = list(record["sentences"]) if record else []
    code_of = {finding["id"]: finding["code"] for finding in record["findings"]} if record else {}
    left = [sentence for sentence in sentences if sentence["section"] == "findings"]
    rows = []
    for field in template.fields:
        mine = [s for s in left if {code_of.get(id, "") for id in s["findings"]} & set(field.codes)]
        left = [s for s in left if s not in mine]
        rows.append({"name": field.name, "codes": list(field.codes), "text": " ".join(s["text"] for s in mine)})
    words = record["sections"] if record else {}
    return {"id": template.id, "title": template.title, "modality": template.modality, "protocols": list(template.protocols),
            "sections": {name: words.get(name, "") for name in SECTIONS if name != "findings"}, "fields": rows,
            "other": " ".join(s["text"] for s in left)}


def as_html(page: Mapping[str, Any]) -> str:
    """The page of laid_out as an MRRT template."""
    codes = "\n".join(f'<entry ORIGTXT="{id}"><term type="code"><code meaning="{escape(meaning)}" value="{code}" scheme="LOINC"/></term></entry>'
                      for id, _, code, meaning in SECTIONS.values())
    body = "\n".join(section(name, page) for name in SECTIONS)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<title>{escape(page["title"])}</title>
<meta charset="UTF-8"/>
<meta name="dcterms.title" content="{escape(page["title"])}"/>
<meta name="dcterms.identifier" content="wetread:{escape(page["id"])}"/>
<meta name="dcterms.type" content="IMAGE_REPORT_TEMPLATE"/>
<meta name="dcterms.language" content="en"/>
<meta name="dcterms.publisher" content="{PUBLISHER}"/>
<meta name="dcterms.license" content="Apache-2.0"/>
<meta name="dcterms.description" content="{escape(page["title"])}, {escape(page["modality"])}; no field is filled in before it was read"/>
<script type="text/xml">
<template_attributes>
<top-level-flag>true</top-level-flag>
<status>ACTIVE</status>
<coding_schemes><coding_scheme name="LOINC" designator="2.16.840.1.113883.6.1"/></coding_schemes>
<coded_content>
{codes}
</coded_content>
</template_attributes>
</script>
</head>
<body>
{body}
</body>
</html>
"""


def section(name: str, page: Mapping[str, Any]) -> str:
    id, heading, _, _ = SECTIONS[name]
    if name == "findings":
        rows: Sequence[tuple[str, str]] = [(row["name"], row["text"]) for row in page["fields"]] + [("Other", page["other"])]
        inside = "\n".join(field(f"findings_{n}", label, text) for n, (label, text) in enumerate(rows, 1))
    else:
        inside = field(f"{id}_text", "", page["sections"][name])
    return (f'<section id="{id}" class="level1" data-section-name="{heading}">\n<header class="level1">{heading}</header>\n{inside}\n</section>')


def field(id: str, label: str, text: str) -> str:
    return (f'<p><label for="{id}">{escape(label)}</label> <textarea id="{id}" name="{escape(label or id)}" rows="2" cols="100" '
            f'data-field-type="TEXTAREA" data-field-completion-action="ALERT">{escape(text)}</textarea></p>')

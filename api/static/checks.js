// The check before signature: asked again while the text is edited; a remark leads to its words.
const panel = document.getElementById("checks");
const report = document.getElementById("draft");
const WORDS = { stop: "Look", warn: "Check", inform: "Note" };

function place(item) {
  const area = report.elements[item.dataset.section];
  if (!area) return;
  area.closest("details").open = true;
  area.focus();
  area.setSelectionRange(Number(item.dataset.start), Number(item.dataset.end));
}

function item(remark) {
  const li = document.createElement("li");
  li.className = `flag ${remark.severity}`;
  Object.assign(li.dataset, { section: remark.section, start: remark.start, end: remark.end });
  const kind = document.createElement("b");
  kind.textContent = WORDS[remark.severity];
  li.append(kind, ` ${remark.message} `);
  if (remark.section) {
    const where = document.createElement("small");
    where.textContent = remark.text && remark.text.length < 80 ? `${remark.section}: “${remark.text}”` : remark.section;
    li.append(where);
  }
  return li;
}

function show(answer) {
  panel.querySelector("ul").replaceChildren(...answer.remarks.map(item));
  panel.querySelector(".nothing").hidden = answer.remarks.length > 0;
  const seen = panel.querySelector(".seen");
  if (!seen) return;
  const box = seen.querySelector("input");
  if (box.value !== answer.mark) box.checked = false;     // other remarks: not looked at yet
  box.value = answer.mark;
  seen.hidden = !answer.mark;
}

let asked = 0;
async function check() {
  const turn = ++asked;
  const sections = {};
  for (const area of report.querySelectorAll("textarea")) sections[area.name] = area.value;
  const answer = await fetch("/v1/reports/check", {
    method: "POST",
    headers: { "content-type": "application/json", "x-csrf-token": report.elements.csrf.value },
    body: JSON.stringify({ draft_id: panel.dataset.draft, sections }),
  });
  if (answer.ok && turn === asked) show(await answer.json());
}

if (panel) {
  panel.addEventListener("click", event => {
    const li = event.target.closest("li");
    if (li) place(li);
  });
  let soon = 0;
  report.addEventListener("input", event => {
    if (event.target.tagName !== "TEXTAREA") return;
    clearTimeout(soon);
    soon = setTimeout(() => check().catch(() => {}), 500);      // the server checks again when it is signed
  });
}

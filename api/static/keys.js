// Keys on the two lists: j and k move, a accepts, c changes, r rejects, Enter opens. The pages work without this too.
"use strict";
const rows = [...document.querySelectorAll(".order, tr.row")];
// after a decision the page comes back one row shorter: stay where we were
const place = "place:" + location.pathname + location.search;
let at = Math.min(Number(sessionStorage.getItem(place)) || 0, rows.length - 1);

function mark(next, scroll) {
  if (!rows.length) return;
  rows[at].classList.remove("at");
  at = Math.max(0, Math.min(rows.length - 1, next));
  rows[at].classList.add("at");
  sessionStorage.setItem(place, at);
  if (scroll) rows[at].scrollIntoView({ block: "nearest" });
}

function open(name) {
  const details = rows[at].querySelector("details." + name);
  if (!details) return;
  details.open = true;
  details.querySelector("input:not([type=hidden])").focus();
}

const KEYS = {
  j: () => mark(at + 1, true),
  k: () => mark(at - 1, true),
  a: () => rows[at].querySelector("button.accept")?.click(),
  c: () => open("change"),
  r: () => open("reject"),
  Enter: () => rows[at].querySelector("a.open")?.click(),
};

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const inField = event.target.matches("input, textarea, select");
  if (event.key === "Escape" && inField) {
    event.target.closest("details")?.removeAttribute("open");
    event.target.blur();
  } else if (!inField && !event.target.matches("button, summary, a") && rows.length && Object.hasOwn(KEYS, event.key)) {
    event.preventDefault();
    if (!event.repeat || "jk".includes(event.key)) KEYS[event.key]();
  }
});
rows.forEach((row, n) => row.addEventListener("pointerdown", () => mark(n, false)));
// one decision a click: a second press before the answer must not send it again
document.querySelectorAll("form").forEach(form => form.addEventListener("submit", event => {
  const question = event.submitter?.dataset.ask;
  if (form.dataset.sent || (question && !confirm(question))) event.preventDefault();
  else form.dataset.sent = "1";
}));
addEventListener("pageshow", () => document.querySelectorAll("form").forEach(form => delete form.dataset.sent));
mark(at, true);

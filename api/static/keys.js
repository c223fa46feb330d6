// Keys on the two lists: j and k move, a accepts, c changes, r rejects, Enter opens. The pages work without this too.
"use strict";
const rows = [...document.querySelectorAll(".order, tr.row")];
const list = document.querySelector("[data-mark]");
const place = "place:" + list.dataset.markUrl;
// the marked row is remembered by what it is, not by where it stands: a new urgent order must not slip under a key
const [id, index] = JSON.parse(sessionStorage.getItem(place) || '["", 0]');
let at = rows.findIndex(row => row.id === id);
if (at < 0) at = Math.max(0, Math.min(index, rows.length - 1));

function remember(n) {
  sessionStorage.setItem(place, JSON.stringify([rows[n]?.id || "", n]));
}

function mark(next, scroll) {
  if (!rows.length) return;
  rows[at].classList.remove("at");
  at = Math.max(0, Math.min(rows.length - 1, next));
  rows[at].classList.add("at");
  remember(at);
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
  if (form.dataset.sent || (question && !confirm(question))) {
    event.preventDefault();
    return;
  }
  form.dataset.sent = "1";
  const n = rows.findIndex(row => row.contains(form));
  if (n >= 0) remember(n + 1 < rows.length ? n + 1 : Math.max(0, n - 1));      // decided, it leaves the list: go on with its neighbour
}));
addEventListener("pageshow", () => document.querySelectorAll("form").forEach(form => delete form.dataset.sent));
mark(at, true);

// a list that grew old says so; it never moves by itself under someone who reads it
async function look() {
  if (document.hidden) return;
  const answer = await fetch(list.dataset.markUrl, { credentials: "same-origin" }).catch(() => null);
  if (!answer?.ok || (await answer.json()).mark === list.dataset.mark) return;
  if (rows.length) document.getElementById("changed").hidden = false;
  else location.reload();
}
setInterval(look, 5000);

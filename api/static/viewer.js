// The image viewer: one series as HU, a window, masks over it. Radiological convention: the patient's right is at the left edge,
// as the server lays volumes out; the letters come from the volume's own geometry and are left away when it is not known.
"use strict";
const stage = document.querySelector(".viewer");
const canvas = document.getElementById("image");
const context = canvas.getContext("2d");
const words = document.getElementById("words");
const slider = document.getElementById("slice");
const overlay = document.getElementById("overlay");
const select = document.getElementById("series");
const COLOURS = [[230, 60, 60], [60, 150, 255], [250, 190, 40], [90, 210, 120], [200, 110, 240], [255, 130, 50]];
const address = `/v1/studies/${encodeURIComponent(stage.dataset.study)}/series/`;
const findings = [...document.querySelectorAll("[data-finding]")];
const masks = new Map();        // name -> {bytes, shape, colour}
const sentences = [...document.querySelectorAll(".sentence[data-place]")];
const seriesAt = new Map();     // series UID -> its number on the server
let header = null, pixels = null, slice = 0, level = 40, width = 80, wanted = 0, marked = null;
const raster = document.createElement("canvas");

async function fetched(url) {
  const answer = await fetch(url, { credentials: "same-origin" });
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Error(problem.detail || `HTTP ${answer.status}`);
  }
  return answer;
}

async function load(n, row = null) {
  const mine = ++wanted;
  words.hidden = false;
  words.textContent = "Loading images…";
  try {
    const found = await (await fetched(address + n)).json();
    const body = await (await fetched(address + n + "/pixels")).arrayBuffer();
    if (mine !== wanted) return;        // another series was chosen meanwhile
    if (!select.options.length) await listSeries(found);
    header = found;
    pixels = new Int16Array(body);      // little endian, as every machine with a browser is
    slider.max = header.shape[0] - 1;
    slice = Math.floor(header.shape[0] / 2);
    if (header.units !== "HU") [level, width] = spread();
    words.hidden = true;
    document.getElementById("notes").textContent = header.notes.length ? `Not as acquired: ${header.notes.join("; ")}.` : "";
    size();
    await loadMasks();
    const first = row || findings.find(one => one.dataset.mask && one.dataset.series === header.series_uid) || findings[0];
    if (first) go(first); else draw();
    stage.dataset.ready = "yes";
  } catch (error) {
    words.hidden = false;
    words.textContent = `No images: ${error.message}`;
  }
}

async function listSeries(first) {
  for (let n = 0; n < first.count; n++) {
    const row = n === first.n ? first : await (await fetched(address + n)).json();
    seriesAt.set(row.series_uid, n);
    select.add(new Option(`${n + 1} · ${row.description || row.modality || "series"} (${row.shape[0]})`, n));
  }
}

function spread() {     // units that mean nothing by themselves: from dark to bright of this series
  let low = Infinity, high = -Infinity;
  for (let i = 0; i < pixels.length; i += 97) {
    low = Math.min(low, pixels[i]);
    high = Math.max(high, pixels[i]);
  }
  [low, high] = [low, high].map(value => value * header.slope + header.intercept);
  return [(low + high) / 2, Math.max(high - low, 1e-6)];
}

async function loadMasks() {
  const names = [...new Set(findings.map(row => row.dataset.mask).filter(Boolean))];
  for (const [n, name] of names.entries()) {
    if (masks.has(name)) continue;
    try {
      const answer = await fetched(`/v1/drafts/${encodeURIComponent(stage.dataset.draft)}/masks/${encodeURIComponent(name)}`);
      const shape = answer.headers.get("X-Shape").split(",").map(Number);
      masks.set(name, { bytes: new Uint8Array(await answer.arrayBuffer()), shape, colour: COLOURS[n % COLOURS.length] });
    } catch { /* the text stands without it; the button of this finding still goes to its slice */ }
  }
  for (const row of findings) {
    const mask = masks.get(row.dataset.mask);
    if (mask) row.querySelector(".show").classList.add(`colour${COLOURS.indexOf(mask.colour)}`);
  }
}

function fits(name) {   // a mask belongs to the series its finding names; never laid over another
  const mask = masks.get(name);
  const ours = findings.some(row => row.dataset.mask === name && (!row.dataset.series || row.dataset.series === header.series_uid));
  return ours && String(mask.shape) === String(header.shape);
}

function size() {
  const [, rows, columns] = header.shape;
  const [, down, across] = header.spacing_mm || [1, 1, 1];
  const box = canvas.parentElement.getBoundingClientRect();
  const scale = Math.min(box.width / (columns * across), box.height / (rows * down));
  const ratio = devicePixelRatio || 1;
  canvas.style.width = `${columns * across * scale}px`;
  canvas.style.height = `${rows * down * scale}px`;
  canvas.width = Math.round(columns * across * scale * ratio);
  canvas.height = Math.round(rows * down * scale * ratio);
  raster.width = columns;
  raster.height = rows;
}

function draw() {
  if (!pixels) return;
  const [slices, rows, columns] = header.shape;
  slice = Math.max(0, Math.min(slices - 1, slice));
  slider.value = slice;
  const start = slice * rows * columns;
  const image = new ImageData(columns, rows);
  const low = level - width / 2, gain = 255 / width;
  const shown = overlay.checked ? [...masks.keys()].filter(fits).map(name => masks.get(name)) : [];
  for (let i = 0, o = 0; i < rows * columns; i++, o += 4) {
    const grey = Math.max(0, Math.min(255, (pixels[start + i] * header.slope + header.intercept - low) * gain));
    image.data[o] = image.data[o + 1] = image.data[o + 2] = grey;
    image.data[o + 3] = 255;
    for (const mask of shown) {
      if (!mask.bytes[start + i]) continue;
      const column = i % columns;
      // the edge strong, the inside faint: what is under it must stay readable
      const edge = !column || column === columns - 1 || !mask.bytes[start + i - 1] || !mask.bytes[start + i + 1]
        || i < columns || i >= (rows - 1) * columns || !mask.bytes[start + i - columns] || !mask.bytes[start + i + columns];
      const share = edge ? 0.85 : 0.18;
      for (let c = 0; c < 3; c++) image.data[o + c] = image.data[o + c] * (1 - share) + mask.colour[c] * share;
    }
  }
  raster.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = true;
  context.drawImage(raster, 0, 0, canvas.width, canvas.height);
  if (overlay.checked) box(rows, columns);
  label(slices);
  document.getElementById("window").textContent = `level ${Math.round(level)} width ${Math.round(width)}${header.units === "HU" ? " HU" : ""}`;
  stage.dataset.slice = slice;
  document.querySelectorAll("[data-level]").forEach(button =>
    button.classList.toggle("on", Number(button.dataset.level) === level && Number(button.dataset.width) === width));
}

function here(row) {        // whether the series on show is the one a finding was seen in
  return !row.dataset.series || row.dataset.series === header.series_uid;
}

function box(rows, columns) {       // round the finding asked for, on its own slice
  delete stage.dataset.box;
  if (!marked?.dataset.box || !here(marked) || Number(marked.dataset.slice) !== slice) return;
  const [top, left, bottom, right] = marked.dataset.box.split(",").map(Number);
  const x = value => value / columns * canvas.width, y = value => value / rows * canvas.height, gap = canvas.height / 100;
  context.strokeStyle = context.fillStyle = "#7fe0ff";
  context.lineWidth = Math.max(1.5, canvas.height / 400);
  context.setLineDash([3 * context.lineWidth, 2 * context.lineWidth]);
  context.strokeRect(x(left) - gap, y(top) - gap, x(right - left) + 2 * gap, y(bottom - top) + 2 * gap);
  context.setLineDash([]);
  context.font = `600 ${Math.max(11, 2.6 * gap)}px system-ui, sans-serif`;
  const atLeft = x((left + right) / 2) < canvas.width / 2, below = y(bottom) + 4 * gap < canvas.height;
  context.textAlign = atLeft ? "left" : "right";
  context.fillText(marked.dataset.name, atLeft ? x(left) - gap : x(right) + gap, below ? y(bottom) + 3.2 * gap : y(top) - 3 * gap);
  stage.dataset.box = marked.dataset.box;
}

function label(slices) {
  const unit = canvas.height / 100, { left, right, top, bottom } = header.marks;
  context.font = `600 ${Math.max(11, 3.2 * unit)}px system-ui, sans-serif`;
  context.fillStyle = "#ffd84a";
  context.textBaseline = "middle";
  const write = (text, x, y, align) => { if (text) { context.textAlign = align; context.fillText(text, x, y); } };
  write(left, 1.5 * unit, canvas.height / 2, "left");
  write(right, canvas.width - 1.5 * unit, canvas.height / 2, "right");
  write(top, canvas.width / 2, 3 * unit, "center");
  write(bottom, canvas.width / 2, canvas.height - 3 * unit, "center");
  context.fillStyle = "#d8dee6";
  write(`${slice + 1} / ${slices}`, 1.5 * unit, 3 * unit, "left");
  if (!left) write("sides not known", canvas.width - 1.5 * unit, 3 * unit, "right");
  if (!header.spacing_mm) return;
  const mm = canvas.width / (header.shape[2] * header.spacing_mm[2]);    // canvas pixels a mm
  const x = canvas.width - 2 * unit, y = canvas.height - 3 * unit;
  context.fillRect(x - 50 * mm, y, 50 * mm, Math.max(1, unit / 3));
  for (let n = 0; n <= 5; n++) context.fillRect(x - n * 10 * mm, y - unit, Math.max(1, unit / 4), unit);
  write("50 mm", x, y - 3 * unit, "right");
}

function go(row) {      // to where a finding is seen, in another series when it was seen there
  if (!here(row) && seriesAt.has(row.dataset.series)) {
    select.value = seriesAt.get(row.dataset.series);
    load(select.value, row);
    return;
  }
  const n = Number(row.dataset.slice);
  if (Number.isInteger(n) && here(row)) slice = n;
  marked = row;
  findings.forEach(other => other.classList.toggle("on", other === row));
  sentences.forEach(one => one.classList.toggle("on", one.dataset.findings.split(" ").includes(row.dataset.finding)));
  draw();
}

function step(by) {
  slice += by;
  draw();
}

let turned = 0;
canvas.parentElement.addEventListener("wheel", event => {
  event.preventDefault();
  turned += event.deltaMode ? event.deltaY * 40 : event.deltaY;     // a touchpad sends many small turns
  const by = Math.trunc(turned / 40);
  if (by) {
    turned -= by * 40;
    step(Math.max(-3, Math.min(3, by)));
  }
}, { passive: false });

let held = null;
canvas.addEventListener("pointerdown", event => {
  held = { x: event.clientX, y: event.clientY, level, width };
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", event => {
  if (!held || !pixels) return;
  width = Math.max(1, held.width + (event.clientX - held.x) * Math.max(1, held.width / 200));
  level = held.level - (event.clientY - held.y) * Math.max(0.5, held.width / 300);
  draw();
});
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { held = null; });

const presets = [...document.querySelectorAll("[data-level]")];
presets.forEach(button => button.addEventListener("click", () => {
  [level, width] = [Number(button.dataset.level), Number(button.dataset.width)];
  draw();
}));
slider.addEventListener("input", () => { slice = Number(slider.value); draw(); });
overlay.addEventListener("change", draw);
select.addEventListener("change", () => load(select.value));
findings.forEach(row => row.querySelector(".show").addEventListener("click", () => go(row)));
function place(sentence) {      // of a sentence with several findings, the next one at each turn
  const rows = findings.filter(one => sentence.dataset.findings.split(" ").includes(one.dataset.finding));
  if (rows.length && pixels) go(rows[(rows.indexOf(marked) + 1) % rows.length]);
}
sentences.forEach(sentence => {
  sentence.addEventListener("click", () => place(sentence));
  sentence.addEventListener("keydown", event => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    place(sentence);
  });
});
document.addEventListener("keydown", event => {
  if (event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = { ArrowDown: () => step(-1), ArrowUp: () => step(1), PageDown: () => step(-5), PageUp: () => step(5), o: () => overlay.click() };
  const act = keys[event.key] || (presets["1234".indexOf(event.key)] && event.key !== "" ? () => presets["1234".indexOf(event.key)].click() : null);
  if (!act) return;
  event.preventDefault();
  act();
});
addEventListener("resize", () => { if (pixels) { size(); draw(); } });
// a text that was changed but not kept is not lost by a stray click
let typed = false;
const form = document.getElementById("draft");
form?.addEventListener("input", () => { typed = true; });
form?.addEventListener("submit", event => {
  if (form.dataset.sent || (event.submitter?.value === "cancel" && !confirm("Cancel this draft? It cannot be taken back."))) {
    event.preventDefault();
    return;
  }
  form.dataset.sent = "1";
  typed = false;
});
addEventListener("pageshow", () => { if (form) delete form.dataset.sent; });
addEventListener("beforeunload", event => { if (typed) event.preventDefault(); });
load(0);

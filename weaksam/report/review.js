// Collect decisions on pseudo labels, by keys and mouse, and give them as a JSON file.
const STORE = `weaksam-review-${DATA.run.pseudo_gt}`;
const decisions = new Map(Object.entries(remembered()));
const decide = document.getElementById("decide");
let redrawn = null, dragFrom = null;

/** Decisions that this browser kept; none where it keeps nothing. */
function remembered() {
  try { return JSON.parse(localStorage.getItem(STORE)) || {}; } catch { return {}; }
}

function remember() {
  try { localStorage.setItem(STORE, JSON.stringify(Object.fromEntries(decisions))); } catch { /* kept in the page alone */ }
}

function keyOf(photo, box) {
  return JSON.stringify([photo.i, box[BOX.row]]);
}

function decisionOf(photo, box) {
  return photo.s === "train" && box[BOX.row] >= 0 && stageOf(photo) === DATA.labels ? decisions.get(keyOf(photo, box)) : undefined;
}

function decisionText(photo, box) {
  const decision = decisionOf(photo, box);
  if (!decision) return "";
  const label = decision.to_label ? ` as ${decision.to_label}` : "";
  return ` — decided: ${decision.decision}${label}`;
}

/** The chosen box where it can be decided on, else undefined. */
function decidable() {
  const photo = shown[opened];
  if (!photo || photo.s !== "train" || stageOf(photo) !== DATA.labels || chosen < 0) return undefined;
  const box = photo.layers[DATA.labels].b[chosen];
  return box && box[BOX.row] >= 0 ? { photo, box } : undefined;
}

function drawDecision(photo) {
  if (!decide) return;
  const target = decidable();
  decide.hidden = photo.s !== "train" || stageOf(photo) !== DATA.labels;
  decide.querySelectorAll("button, select").forEach((control) => {
    control.disabled = !target && control.dataset.decision !== "next";
  });
  if (target) {
    const before = decisionOf(target.photo, target.box);
    const label = before && before.to_label ? DATA.classes.indexOf(before.to_label) : target.box[BOX.label];
    const select = document.getElementById("relabel");
    [...select.options].forEach((option) => { option.disabled = !photo.t.includes(Number(option.value)); });
    select.value = String(label);
    const moved = redrawn || (before && before.to_box);
    if (moved) {
      const svg = document.querySelector("#panel-stage svg");
      svg.append(boxShape([...moved, label, -1, -1], photo, " chosen", redrawn ? "new box" : "redrawn"));
    }
  }
  help(target ? redrawn ? "Drag on the photo, or move the box with the arrow keys (with Shift: its size); Enter keeps it, Escape does not."
    : "A accept, R reject, L relabel, D redraw, U undo, N next doubtful box." : "Choose a believed or ignored box, with the arrow keys or in the list.");
  count();
}

function help(text) {
  document.getElementById("decide-help").textContent = text;
}

function count() {
  const number = decisions.size, photos = new Set([...decisions.values()].map((decision) => decision.image_id)).size;
  document.getElementById("review-count").textContent = number ? `${number} decisions on ${photos} photos.` : "Nothing decided yet.";
  document.getElementById("review-download").disabled = document.getElementById("review-clear").disabled = !number;
}

function keep(decision, more = {}) {
  const target = decidable();
  if (!target) return;
  const { photo, box } = target;
  decisions.set(keyOf(photo, box), {
    image_id: photo.i, row: box[BOX.row], box: box.slice(0, 4), label: className(box[BOX.label]), decision, ...more,
  });
  remember();
  redrawn = null;
  next();
  refocusBox();
}

/** All boxes that can be decided on, the most doubtful first: photos by doubt, in each the least trusted box. */
function doubtfulBoxes() {
  return shown.flatMap((photo, number) => !(DATA.labels in photo.layers) ? [] : photo.layers[DATA.labels].b
    .map((box, index) => ({ photo, number, box, index }))
    .filter(({ box }) => box[BOX.row] >= 0 && boxPasses(box, state))
    .sort((first, second) => (first.box[BOX.zone] - second.box[BOX.zone]) || (first.box[BOX.chance] - second.box[BOX.chance])));
}

/** Open the next box without a decision, after the chosen one and then from the start. */
function next() {
  const boxes = doubtfulBoxes(), at = boxes.findIndex(({ number, index }) => number === opened && index === chosen);
  const after = [...boxes.slice(at + 1), ...boxes.slice(0, at + 1)].find(({ photo, box }) => !decisions.has(keyOf(photo, box)));
  if (after) openPhoto(after.number, after.index);
  else { drawViewer(); help("Every box that is shown is decided on."); }
}

function start() {
  Object.assign(state, EMPTY, { split: "train", stage: DATA.labels });
  refresh();
  opened = chosen = -1;
  next();
}

/** Begin to redraw the chosen box, from where it is now. */
function beginRedraw() {
  const target = decidable();
  if (!target) return;
  const before = decisionOf(target.photo, target.box);
  redrawn = (before && before.to_box ? before.to_box : target.box.slice(0, 4)).slice();
  drawViewer();
  document.querySelector("#panel-stage .stage-picture").classList.add("redrawing");
}

function endRedraw(kept) {
  document.querySelector("#panel-stage .stage-picture").classList.remove("redrawing");
  const box = redrawn && tidy(redrawn);
  if (kept && box) keep("redraw", { to_box: box });
  else { redrawn = null; drawViewer(); if (kept) help("A box needs a width and a height of a pixel at least."); }
}

/** A box with ordered corners inside its photo, rounded to a tenth of a pixel; null where it is under a pixel. */
function tidy(box) {
  const photo = shown[opened], clamp = (value, most) => Math.round(Math.min(Math.max(value, 0), most) * 10) / 10;
  const [x1, x2] = [clamp(box[0], photo.w), clamp(box[2], photo.w)].sort((a, b) => a - b);
  const [y1, y2] = [clamp(box[1], photo.h), clamp(box[3], photo.h)].sort((a, b) => a - b);
  return x2 - x1 < 1 || y2 - y1 < 1 ? null : [x1, y1, x2, y2];
}

function nudge(key, resize) {
  const photo = shown[opened], step = Math.max(1, Math.max(photo.w, photo.h) / 100);
  const across = { ArrowLeft: -step, ArrowRight: step }[key] || 0, down = { ArrowUp: -step, ArrowDown: step }[key] || 0;
  redrawn = [redrawn[0] + (resize ? 0 : across), redrawn[1] + (resize ? 0 : down), redrawn[2] + across, redrawn[3] + down];
  drawViewer();
}

/** Where on the photo a pointer is, in its pixels. */
function pointOf(event) {
  const svg = document.querySelector("#panel-stage svg"), photo = shown[opened], frame = svg.getBoundingClientRect();
  const scale = Math.min(frame.width / photo.w, frame.height / photo.h);
  return [(event.clientX - frame.left - (frame.width - photo.w * scale) / 2) / scale,
    (event.clientY - frame.top - (frame.height - photo.h * scale) / 2) / scale];
}

const ACTIONS = {
  accept: () => keep("accept"),
  reject: () => keep("reject"),
  relabel: () => {
    const target = decidable(), label = Number(document.getElementById("relabel").value);
    if (!target) return;
    if (label === target.box[BOX.label]) help("That is its class: choose another one, or accept it.");
    else keep("relabel", { to_label: DATA.classes[label] });
  },
  redraw: () => (redrawn ? endRedraw(true) : beginRedraw()),
  undo: () => {
    const target = decidable();
    if (target) { decisions.delete(keyOf(target.photo, target.box)); remember(); redrawn = null; drawViewer(); }
  },
  next,
};
const KEYS = { a: "accept", r: "reject", d: "redraw", u: "undo", n: "next" };

function download() {
  const file = { format: "weaksam-review", version: 1, run: DATA.run, classes: DATA.classes, decisions: [...decisions.values()] };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1)], { type: "application/json" }));
  link.download = "decisions.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

if (decide) {
  decide.addEventListener("click", (event) => {
    const button = event.target.closest("[data-decision]");
    if (button) ACTIONS[button.dataset.decision]();
  });
  viewer.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("select, input")) return;
    if (redrawn && event.key.startsWith("Arrow")) nudge(event.key, event.shiftKey);
    else if (redrawn && event.key === "Enter") endRedraw(true);
    else if (redrawn && event.key === "Escape") endRedraw(false);
    else if (event.key.toLowerCase() === "l") document.getElementById("relabel").focus();
    else if (event.key.toLowerCase() in KEYS) ACTIONS[KEYS[event.key.toLowerCase()]]();
    else return;
    event.preventDefault();
  }, true);
  viewer.addEventListener("cancel", (event) => { if (redrawn) event.preventDefault(); });
  viewer.addEventListener("close", () => { redrawn = null; });
  document.getElementById("relabel").addEventListener("keydown", (event) => { if (event.key === "Enter") ACTIONS.relabel(); });
  const picture = document.querySelector("#panel-stage .stage-picture");
  picture.addEventListener("pointerdown", (event) => {
    if (!redrawn) return;
    dragFrom = pointOf(event);
    picture.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  picture.addEventListener("pointermove", (event) => {
    if (!redrawn || !dragFrom) return;
    redrawn = [...dragFrom, ...pointOf(event)];
    const box = tidy(redrawn);
    if (box) { redrawn = box; drawViewer(); }
  });
  picture.addEventListener("pointerup", () => { if (redrawn && dragFrom) { dragFrom = null; endRedraw(true); } });
  document.getElementById("review-start").addEventListener("click", start);
  document.getElementById("review-download").addEventListener("click", download);
  document.getElementById("review-clear").addEventListener("click", () => { decisions.clear(); remember(); count(); });
  count();
}
followAddress();

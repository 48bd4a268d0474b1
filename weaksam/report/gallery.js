// Filter the photos, show those in sight in a grid, and open one in the viewer.
const EMPTY = { split: "", stage: "", label: "", kind: "", order: "doubt", text: "" };
const state = { ...EMPTY };
const form = document.getElementById("filters"), grid = document.getElementById("grid");
const pane = document.getElementById("window"), viewer = document.getElementById("viewer");
let shown = [], focused = 0, opened = -1, chosen = -1, layout = { columns: 1, row: 1, first: -1, last: -1 };

function fillSelect(name, pairs) {
  form.elements[name].replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
}

function prepareFilters() {
  const splits = [...new Set(DATA.photos.map((photo) => photo.s))];
  const names = { train: "training photos", test: "test photos" };
  fillSelect("split", [["", "all"], ...splits.map((split) => [split, names[split]])]);
  fillSelect("stage", [["", "the last"], ...DATA.stages.map((stage) => [stage, stage])]);
  fillSelect("label", [["", "all"], ...DATA.classes.map((name, label) => [String(label), name])]);
  const known = DATA.photos.some((photo) => photo.truth);
  const kinds = known ? [["error", "any error"], ...DATA.kinds.map((kind) => [kind, kind]), ["missed", "missed"]] : [];
  fillSelect("kind", [["", known ? "all" : "no truth known"], ...kinds]);
  form.elements.kind.disabled = !known;
  fillSelect("order", [["doubt", "most doubtful first"], ["name", "by name"]]);
}

/** The layer of a photo that is shown: the chosen stage's, else that of the last stage it has. */
function layerOf(photo) {
  return photo.layers[stageOf(photo)];
}

function stageOf(photo) {
  if (state.stage !== "") return state.stage;
  return [...DATA.stages].reverse().find((stage) => stage in photo.layers) || "";
}

function photoPasses(photo) {
  if (state.split !== "" && photo.s !== state.split) return false;
  if (state.text !== "" && !photo.i.toLowerCase().includes(state.text.toLowerCase())) return false;
  const layer = layerOf(photo);
  if (state.stage !== "" && !layer) return false;
  if (state.kind === "" && state.label === "") return true;
  if (state.kind === "" && photo.t.includes(Number(state.label))) return true;
  if (!layer) return false;
  return layer.b.some((box) => box[BOX.label] >= 0 && box[BOX.zone] !== BACKGROUND && boxPasses(box, state)) ||
    (state.kind !== "" && missedOf(photo, layer, state).length > 0);
}

function byOrder(first, second) {
  const doubt = state.order === "doubt" ? (second.d ?? -1) - (first.d ?? -1) : 0;
  return doubt || (first.i < second.i ? -1 : first.i > second.i ? 1 : 0);
}

/** Filter and order the photos anew and show the grid from its start. */
function refresh() {
  for (const [name, value] of Object.entries(state)) if (form.elements[name].value !== value) form.elements[name].value = value;
  shown = DATA.photos.filter(photoPasses).sort(byOrder);
  focused = 0;
  const doubtful = state.order === "doubt" && shown.some((photo) => photo.d !== null) ? ", the most doubtful first" : "";
  document.getElementById("count").textContent = shown.length
    ? `${shown.length} of ${DATA.photos.length} photos${doubtful}` : "No photo passes these filters.";
  place();
  draw(true);
}

/** How many columns there are, and how high the grid is. */
function place() {
  const width = grid.clientWidth, columns = Math.max(2, Math.floor((width + 10) / 210));
  const row = Math.round((width - 10 * (columns - 1)) / columns * 0.75) + 52;
  layout = { columns, row, first: -1, last: -1 };
  pane.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  pane.style.gridAutoRows = `${row - 10}px`;
  grid.style.height = `${Math.ceil(shown.length / columns) * row}px`;
}

/** Put the tiles in sight, and two rows around them, into the page. */
function draw(always) {
  const top = grid.getBoundingClientRect().top, rows = Math.ceil(shown.length / layout.columns);
  const first = Math.min(Math.max(0, rows - 1), Math.max(0, Math.floor(-top / layout.row) - 2));
  const last = Math.min(rows, Math.max(first + 3, Math.ceil((innerHeight - top) / layout.row) + 2));
  if (!always && first === layout.first && last === layout.last) return;
  Object.assign(layout, { first, last });
  const active = document.activeElement && document.activeElement.classList.contains("tile");
  pane.style.top = `${first * layout.row}px`;
  const range = shown.slice(first * layout.columns, last * layout.columns);
  pane.replaceChildren(...range.map((photo, offset) => tile(photo, first * layout.columns + offset)));
  if (active) focusTile(focused, false);
}

function tile(photo, number) {
  const item = document.createElement("div"), button = document.createElement("button");
  item.setAttribute("role", "listitem");
  item.setAttribute("aria-setsize", shown.length);
  item.setAttribute("aria-posinset", number + 1);
  button.type = "button";
  button.className = "tile";
  button.dataset.number = number;
  button.tabIndex = number === focused ? 0 : -1;
  const tags = photo.t.map(className).join(", ");
  const picture = document.createElement("div"), image = new Image();
  picture.className = "stage-picture";
  Object.assign(image, { loading: "lazy", decoding: "async", alt: "", src: photo.u });
  picture.append(image, layerOverlay(photo, layerOf(photo), state));
  const name = document.createElement("span"), about = document.createElement("span");
  name.textContent = photo.i;
  about.className = "soft";
  about.textContent = [tags, photo.d === null ? "test" : `doubt ${photo.d.toFixed(2)}`].filter(Boolean).join(" · ");
  button.setAttribute("aria-label", `${photo.i}, ${about.textContent}, ${summaryOf(photo)}`);
  button.append(picture, name, about);
  item.append(button);
  return item;
}

function summaryOf(photo) {
  const layer = layerOf(photo);
  if (!layer) return "nothing of this stage";
  const boxes = layer.b.filter((box) => box[BOX.zone] !== BACKGROUND && boxPasses(box, state));
  return `${stageOf(photo)}: ${boxes.length} boxes, ${missedOf(photo, layer, state).length} missed`;
}

/** Focus a tile by its number, after scrolling it into sight where it is not there. */
function focusTile(number, scroll = true) {
  focused = Math.min(Math.max(0, number), shown.length - 1);
  if (scroll) {
    const row = Math.floor(focused / layout.columns), top = grid.getBoundingClientRect().top + row * layout.row;
    if (top < 0 || top + layout.row > innerHeight) scrollBy(0, top - innerHeight / 3);
    draw(true);
  }
  const button = pane.querySelector(`[data-number="${focused}"]`);
  pane.querySelectorAll(".tile").forEach((other) => { other.tabIndex = other === button ? 0 : -1; });
  if (button) button.focus({ preventScroll: true });
}

const STEPS = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -layout.columns, ArrowDown: () => layout.columns,
  Home: () => -shown.length, End: () => shown.length };

grid.addEventListener("keydown", (event) => {
  if (!(event.key in STEPS) || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  focusTile(focused + STEPS[event.key]());
});
grid.addEventListener("click", (event) => {
  const button = event.target.closest(".tile");
  if (button) openPhoto(Number(button.dataset.number));
});
form.addEventListener("input", () => {
  for (const name of Object.keys(state)) state[name] = form.elements[name].value;
  refresh();
});
form.addEventListener("reset", (event) => { event.preventDefault(); Object.assign(state, EMPTY); refresh(); });
form.addEventListener("submit", (event) => event.preventDefault());
addEventListener("scroll", () => draw(false), { passive: true });
addEventListener("resize", () => { place(); draw(true); });

/** Open the photo of this number of those shown; box `select` of its layer is chosen. */
function openPhoto(number, select = -1) {
  if (!shown.length) return;
  opened = focused = (number + shown.length) % shown.length;
  chosen = select;
  drawViewer();
  if (!viewer.open) viewer.showModal();
}

function drawViewer() {
  const photo = shown[opened], layer = layerOf(photo);
  document.getElementById("viewer-title").textContent = `${photo.i} (${opened + 1} of ${shown.length})`;
  const tags = photo.t.map(className).join(", ") || "not known";
  const doubt = photo.d === null ? "" : `; doubt ${photo.d.toFixed(2)}`;
  document.getElementById("viewer-about").textContent =
    `${photo.s === "train" ? "training" : "test"} photo of ${photo.w} x ${photo.h} pixels; tags: ${tags}${doubt}`;
  panel("panel-stage", photo, layerOverlay(photo, layer, state, { chosen, captions: true, background: true }), stageOf(photo) || "no stage");
  document.getElementById("panel-truth").hidden = !photo.truth;
  if (photo.truth) panel("panel-truth", photo, truthOverlay(photo, state), `true objects: ${photo.truth.length}`);
  const boxes = layer ? layer.b.map((box, index) => [box, index]).filter(([box]) => boxPasses(box, state)) : [];
  document.getElementById("boxes").replaceChildren(...boxes.map(([box, index]) => boxItem(photo, box, index)));
  if (typeof drawDecision === "function") drawDecision(photo, layer);
  if (viewer.open && !viewer.contains(document.activeElement)) viewer.focus(); // what had the focus is drawn anew
}

function panel(id, photo, overlay, caption) {
  const figure = document.getElementById(id), image = figure.querySelector("img") || new Image();
  figure.querySelector("figcaption").textContent = caption;
  image.alt = `${photo.i}, ${caption}`;
  if (image.dataset.shown !== photo.i + photo.s) Object.assign(image, { src: photo.u, width: photo.w, height: photo.h });
  image.dataset.shown = photo.i + photo.s;
  figure.querySelector(".stage-picture").replaceChildren(image, overlay);
}

function boxItem(photo, box, index) {
  const item = document.createElement("li"), button = document.createElement("button");
  const swatch = document.createElement("span"), kind = document.createElement("span");
  button.type = "button";
  button.dataset.box = index;
  button.setAttribute("aria-pressed", index === chosen);
  swatch.className = "swatch";
  swatch.style.background = colourOf(box[BOX.label]);
  const decision = typeof decisionText === "function" ? decisionText(photo, box) : "";
  kind.textContent = box[BOX.kind] >= 0 ? `${DATA.kinds[box[BOX.kind]]} ` : "";
  kind.className = box[BOX.kind] === RIGHT ? "good" : "wrong";
  button.append(swatch, kind, `${className(box[BOX.label])} ${describe(box)}${decision}`);
  button.addEventListener("click", () => { chosen = index; drawViewer(); refocusBox(); });
  item.append(button);
  return item;
}

function refocusBox() {
  const button = document.querySelector(`#boxes [data-box="${chosen}"]`);
  if (button) button.focus();
}

function closeViewer() {
  viewer.close();
}

document.getElementById("viewer-before").addEventListener("click", () => openPhoto(opened - 1));
document.getElementById("viewer-after").addEventListener("click", () => openPhoto(opened + 1));
document.getElementById("viewer-close").addEventListener("click", closeViewer);
viewer.addEventListener("close", () => { if (shown.length) focusTile(focused); });
viewer.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.target.matches("select, input") || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "ArrowLeft") openPhoto(opened - 1);
  else if (event.key === "ArrowRight") openPhoto(opened + 1);
  else if (event.key === "ArrowDown" || event.key === "ArrowUp") stepBox(event.key === "ArrowDown" ? 1 : -1);
  else return;
  event.preventDefault();
});

function stepBox(step) {
  const numbers = [...document.querySelectorAll("#boxes [data-box]")].map((button) => Number(button.dataset.box));
  if (!numbers.length) return;
  const at = numbers.indexOf(chosen);
  chosen = numbers[at < 0 ? (step > 0 ? 0 : numbers.length - 1) : (at + step + numbers.length) % numbers.length];
  drawViewer();
  refocusBox();
}

/** Set the filters from an address such as `#gallery?stage=WSOD&kind=part`; `photo` opens that photo. */
function followAddress() {
  const [place, query] = location.hash.split("?");
  if (place !== "#gallery" || query === undefined) return;
  const wanted = new URLSearchParams(query);
  Object.assign(state, EMPTY);
  for (const name of Object.keys(EMPTY)) if (wanted.has(name)) state[name] = wanted.get(name);
  refresh();
  document.getElementById("gallery").scrollIntoView();
  const number = wanted.has("photo") ? shown.findIndex((photo) => photo.i === wanted.get("photo")) : -1;
  if (number >= 0) openPhoto(number);
}

prepareFilters();
refresh();
addEventListener("hashchange", followAddress);

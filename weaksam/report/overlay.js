// Draw the boxes, masks and peaks of a photo as SVG over its picture.
"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const BOX = { label: 4, score: 5, kind: 6, zone: 7, reason: 8, row: 9, chance: 10 };
const BELIEVED = 0, IGNORED = 1, BACKGROUND = 2;
const RIGHT = DATA.kinds.indexOf("right"), NO_ERRORS = [-1, RIGHT, DATA.kinds.indexOf("ignored")];
const GREY = "#c9d1df";

function svgElement(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function colourOf(label) {
  return label < 0 ? GREY : DATA.colours[label];
}

function className(label) {
  return label < 0 ? "any class" : DATA.classes[label];
}

/** Whether a box passes the filters of class and kind; `missed` is a kind of objects, which no box has. */
function boxPasses(box, state) {
  if (state.label !== "" && box[BOX.label] >= 0 && box[BOX.label] !== Number(state.label)) return false;
  if (state.kind === "") return true;
  if (state.kind === "error") return !NO_ERRORS.includes(box[BOX.kind]);
  return state.kind !== "missed" && DATA.kinds[box[BOX.kind]] === state.kind;
}

/** The missed objects of a layer that pass the filters, as numbers of true objects. */
function missedOf(photo, layer, state) {
  if (!["", "missed", "error"].includes(state.kind) || !photo.truth) return [];
  return layer.m.filter((number) => state.label === "" || photo.truth[number][4] === Number(state.label));
}

function rectangle(box, attributes) {
  return svgElement("rect", {
    x: box[0], y: box[1], width: Math.max(0, box[2] - box[0]), height: Math.max(0, box[3] - box[1]), ...attributes,
  });
}

/** A group with one box: dark below, its colour above, and a text where `caption` is given. */
function boxShape(box, photo, classes, caption) {
  const group = svgElement("g", {});
  const quiet = box[BOX.zone] === BACKGROUND || box[BOX.label] < 0;
  const zone = box[BOX.zone] === IGNORED ? " ignored" : quiet ? " background" : "";
  if (!quiet) group.append(rectangle(box, { class: "under" }));
  const colour = quiet ? GREY : colourOf(box[BOX.label]);
  group.append(rectangle(box, { class: "shape" + zone + classes, stroke: colour }));
  if (caption) {
    const size = Math.max(photo.w, photo.h) / 30;
    const y = box[1] > size ? box[1] - size * 0.25 : box[1] + size;
    group.append(svgElement("text", { class: "text", x: box[0], y, "font-size": size }, caption));
  }
  return group;
}

/** The overlay of a photo's layer: what passes the filters; `options`: chosen (a box), captions, background. */
function layerOverlay(photo, layer, state, options = {}) {
  const svg = svgElement("svg", { viewBox: `0 0 ${photo.w} ${photo.h}`, "aria-hidden": "true" });
  if (!layer) return svg;
  layer.b.forEach((box, number) => {
    if (!boxPasses(box, state) || (box[BOX.zone] === BACKGROUND && !options.background)) return;
    if (layer.p && layer.p[number]) {
      const colour = colourOf(box[BOX.label]);
      svg.append(svgElement("path", { class: "shape mask", d: layer.p[number], fill: colour, stroke: colour, "fill-rule": "evenodd" }));
    }
    const chosen = options.chosen === number ? " chosen" : "";
    svg.append(boxShape(box, photo, chosen, options.captions ? captionOf(box) : ""));
  });
  for (const number of missedOf(photo, layer, state)) {
    svg.append(rectangle(photo.truth[number], { class: "under" }));
    svg.append(rectangle(photo.truth[number], { class: "shape missed" }));
  }
  for (const [x, y, label] of layer.k || []) {
    if (state.label !== "" && label >= 0 && label !== Number(state.label)) continue;
    const fill = label < 0 ? "#ffffff" : colourOf(label);
    svg.append(svgElement("circle", { class: "peak", cx: x, cy: y, r: Math.max(photo.w, photo.h) / 70, fill }));
  }
  return svg;
}

/** The true objects of a photo as an overlay. */
function truthOverlay(photo, state) {
  const svg = svgElement("svg", { viewBox: `0 0 ${photo.w} ${photo.h}`, "aria-hidden": "true" });
  for (const box of photo.truth || []) {
    if (state.label !== "" && box[4] !== Number(state.label)) continue;
    svg.append(boxShape([...box, -1, -1, -1], photo, "", className(box[4])));
  }
  return svg;
}

function captionOf(box) {
  const score = box[BOX.score] >= 0 ? ` ${box[BOX.score].toFixed(2)}` : "";
  return box[BOX.label] < 0 || box[BOX.zone] === BACKGROUND ? "" : className(box[BOX.label]) + score;
}

/** What is known of a box in words. */
function describe(box) {
  const parts = [];
  if (box[BOX.score] >= 0) parts.push(`score ${box[BOX.score].toFixed(2)}`);
  if (box[BOX.zone] >= 0) parts.push(`${DATA.zones[box[BOX.zone]]}: ${DATA.reasons[box[BOX.reason]]}`);
  if (box[BOX.chance] >= 0) parts.push(`predicted chance to be right ${box[BOX.chance].toFixed(2)}`);
  return parts.join("; ");
}

// The picture: its views, what lies over it, and the tools on it.
import { cellsOf, emptyMask, fullMask, maskOf, resized, stroke } from "./mask.js";
import { pictures, shownPicture, whenShown } from "./pictures.js";
import { sayWrong } from "./status.js";
import { changeLayer, commit, selectedLayer, siteFacts, store, subscribe } from "./store.js";

const HUES = ["#e4572e", "#2e86ab", "#7b2cbf", "#2a9d8f", "#d4a017", "#d6336c"];
export const hueOf = (number) => HUES[number % HUES.length];
const FULL = 255, HEAT = "230, 40, 40";
const picture = byId("picture"), over = byId("over");
let split = 0.5, pointer = null, cursor = { x: 0.5, y: 0.5 }, byKeys = false;
let heat = null; // { cells, rows, columns, row, column }
let onLook = () => {};

export const whenLooked = (listener) => { onLook = listener; };
const viewNow = () => document.querySelector("input[name=view]:checked").value;
const toolNow = () => document.querySelector("input[name=tool]:checked").value;
const radius = () => Number(byId("brush").value) / 200;

// ---- drawing ------------------------------------------------------------------------------------------------------
const STOPS = [[0, 0, 0], [90, 20, 110], [220, 70, 60], [250, 220, 60]];
function differenceOf(a, b, size) {
  const [left, right] = [a, b].map((bitmap) => {
    const context = new OffscreenCanvas(size, size).getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, size, size);
  });
  for (let i = 0; i < left.data.length; i += 4) {
    const sum = Math.abs(left.data[i] - right.data[i]) + Math.abs(left.data[i + 1] - right.data[i + 1]) + Math.abs(left.data[i + 2] - right.data[i + 2]);
    const at = Math.min(2.999, (sum / 3 / 128) * 3), stop = Math.floor(at), share = at - stop;
    for (let c = 0; c < 3; c += 1) left.data[i + c] = STOPS[stop][c] + share * (STOPS[stop + 1][c] - STOPS[stop][c]);
  }
  return left;
}
function drawPicture() {
  const base = pictures.base?.bitmap, edited = shownPicture()?.bitmap;
  if (!edited) return;
  const view = viewNow(), size = edited.width, context = picture.getContext("2d", { willReadFrequently: true });
  if (picture.width !== size) picture.width = picture.height = size;
  if (view === "difference" && base?.width === size) context.putImageData(differenceOf(base, edited, size), 0, 0);
  else context.drawImage(view === "base" && base ? base : edited, 0, 0);
  if (view === "slider" && base) {
    const wide = Math.round(split * size);
    if (wide) context.drawImage(base, 0, 0, wide, size, 0, 0, wide, size);
  }
  const beside = byId("beside");
  beside.hidden = view !== "both" || !base;
  if (!beside.hidden) {
    beside.width = beside.height = base.width;
    beside.getContext("2d").drawImage(base, 0, 0);
  }
}
function drawOver() {
  const scale = window.devicePixelRatio || 1, side = Math.round(over.clientWidth * scale);
  if (over.width !== side) over.width = over.height = side;
  const context = over.getContext("2d"), layer = selectedLayer(), view = viewNow();
  context.clearRect(0, 0, side, side);
  if (heat && view !== "slider" && view !== "difference") {
    heat.cells.forEach((value, place) => {
      if (value) {
        context.fillStyle = `rgba(${HEAT}, ${(0.8 * value) / FULL})`;
        fillCell(context, side, heat.rows, heat.columns, Math.floor(place / heat.columns), place % heat.columns);
      }
    });
    frame(context, side, heat.rows, heat.columns, heat.row, heat.column, scale);
  } else if (layer && byId("show-mask").checked && view !== "slider") {
    drawMask(context, side, layer.mask, hueOf(store.selected), scale);
  }
  if (view === "slider") {
    context.fillStyle = "#fff";
    context.fillRect(split * side - scale, 0, 2 * scale, side);
    context.fillStyle = "#000a";
    context.fillRect(split * side + scale, 0, scale, side);
    return;
  }
  const place = byKeys ? cursor : pointer;
  if (!place) return;
  context.lineWidth = 1.5 * scale;
  if (toolNow() === "look") {
    const grid = lookGrid();
    frame(context, side, grid[0], grid[1], Math.floor(place.y * grid[0]), Math.floor(place.x * grid[1]), scale);
  } else {
    for (const [colour, more] of [["#000b", 1], ["#fff", 0]]) {
      context.strokeStyle = colour;
      context.beginPath();
      context.arc(place.x * side, place.y * side, Math.max(3, radius() * side) + more * scale, 0, 2 * Math.PI);
      context.stroke();
    }
  }
}
function fillCell(context, side, rows, columns, row, column) {
  const [x, y] = [Math.round((column * side) / columns), Math.round((row * side) / rows)];
  context.fillRect(x, y, Math.round(((column + 1) * side) / columns) - x, Math.round(((row + 1) * side) / rows) - y);
}
function frame(context, side, rows, columns, row, column, scale) {
  if (!(row >= 0 && column >= 0)) return;
  context.lineWidth = 2 * scale;
  context.strokeStyle = "#fff";
  context.strokeRect((column * side) / columns, (row * side) / rows, side / columns, side / rows);
  context.strokeStyle = "#000";
  context.setLineDash([4 * scale, 4 * scale]);
  context.strokeRect((column * side) / columns, (row * side) / rows, side / columns, side / rows);
  context.setLineDash([]);
}
function drawMask(context, side, mask, hue, scale) {
  const cells = cellsOf(mask), has = (row, column) => row >= 0 && column >= 0 && row < mask.rows && column < mask.columns && cells[row * mask.columns + column];
  context.fillStyle = `${hue}30`;
  cells.forEach((cell, place) => { if (cell) fillCell(context, side, mask.rows, mask.columns, Math.floor(place / mask.columns), place % mask.columns); });
  context.beginPath();
  cells.forEach((cell, place) => {
    if (!cell) return;
    const [row, column] = [Math.floor(place / mask.columns), place % mask.columns];
    const [x, y, right, bottom] = [(column * side) / mask.columns, (row * side) / mask.rows, ((column + 1) * side) / mask.columns, ((row + 1) * side) / mask.rows];
    for (const [other, from, to] of [
      [has(row - 1, column), [x, y], [right, y]], [has(row + 1, column), [x, bottom], [right, bottom]],
      [has(row, column - 1), [x, y], [x, bottom]], [has(row, column + 1), [right, y], [right, bottom]],
    ]) if (!other) { context.moveTo(...from); context.lineTo(...to); }
  });
  for (const [colour, width] of [["#fffc", 4], [hue, 2]]) {
    context.lineWidth = width * scale;
    context.strokeStyle = colour;
    context.stroke();
  }
}
function drawAll() { drawPicture(); drawOver(); }
export function showHeat(next) { heat = next; drawOver(); }

// ---- tools --------------------------------------------------------------------------------------------------------
const lookGrid = () => (siteFacts(byId("site").value) ?? store.facts.sites[0]).grid;
let painting = null; // { cells, rows, columns, last }
function begin(place) {
  if (viewNow() === "slider") return setSplit(place.x);
  if (toolNow() === "look") return onLook(place, viewNow() === "base");
  const layer = selectedLayer();
  if (!layer) return sayWrong("There is no layer to paint: choose a feature and add it with +.");
  showHeat(null);
  painting = { cells: cellsOf(layer.mask), rows: layer.mask.rows, columns: layer.mask.columns, last: place };
  return extend([place]);
}
function extend(places) {
  const { cells, rows, columns } = painting;
  for (const place of places) {
    stroke(cells, rows, columns, painting.last, place, radius(), toolNow() === "erase" ? 0 : 1);
    painting.last = place;
  }
  changeLayer(store.selected, { mask: maskOf(cells, rows, columns) }, true);
}
function end() {
  if (!painting) return;
  painting = null;
  commit();
}
const inside = (value) => Math.min(0.99999, Math.max(0, value));
function placeOf(event) {
  const box = over.getBoundingClientRect();
  return { x: inside((event.clientX - box.left) / box.width), y: inside((event.clientY - box.top) / box.height) };
}
over.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  over.setPointerCapture(event.pointerId);
  [byKeys, pointer] = [false, placeOf(event)];
  begin(pointer);
});
over.addEventListener("pointermove", (event) => {
  [byKeys, pointer] = [false, placeOf(event)];
  if (painting) {
    const events = event.getCoalescedEvents?.() ?? [];
    extend((events.length ? events : [event]).map(placeOf)); // also those between two frames, so that no stroke has gaps
  } else if (viewNow() === "slider" && event.buttons & 1) setSplit(pointer.x);
  drawOver();
});
over.addEventListener("pointerup", end);
over.addEventListener("pointercancel", end);
over.addEventListener("pointerleave", () => { pointer = null; drawOver(); });
over.addEventListener("blur", () => { byKeys = false; drawOver(); });
over.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const [rows, columns] = toolNow() === "look" ? lookGrid() : selectedLayer() ? [Math.min(32, selectedLayer().mask.rows), Math.min(32, selectedLayer().mask.columns)] : lookGrid();
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const tools = { b: "paint", e: "erase", l: "look" };
  const brush = byId("brush"), sizes = { "[": -4, "]": 4 };
  if (event.key in moves) {
    const [dx, dy] = moves[event.key], to = (value, cells, by) => (Math.min(cells - 1, Math.max(0, Math.floor(value * cells) + by)) + 0.5) / cells;
    cursor = { x: to(cursor.x, columns, dx), y: to(cursor.y, rows, dy) };
    if (viewNow() === "slider") setSplit(split + dx * 0.05);
  } else if (event.key === " " || event.key === "Enter") {
    begin(cursor);
    end();
  } else if (event.key in tools) document.querySelector(`input[name=tool][value=${tools[event.key]}]`).click();
  else if (event.key in sizes) {
    brush.value = Number(brush.value) + sizes[event.key];
    brush.dispatchEvent(new Event("input"));
  } else return;
  event.preventDefault();
  byKeys = true;
  drawOver();
});

function setSplit(share) {
  split = Math.min(1, Math.max(0, share));
  byId("split").value = Math.round(100 * split);
  drawAll();
}
byId("split").addEventListener("input", () => setSplit(Number(byId("split").value) / 100));
byId("brush").addEventListener("input", () => { byId("brush-size").textContent = `${byId("brush").value} %`; drawOver(); });
byId("brush-size").textContent = `${byId("brush").value} %`;
byId("show-mask").addEventListener("change", drawOver);
for (const input of document.querySelectorAll("input[name=view]")) {
  input.addEventListener("change", () => {
    byId("split-label").hidden = viewNow() !== "slider";
    byId("scale").hidden = viewNow() !== "difference";
    drawAll();
  });
}
for (const input of document.querySelectorAll("input[name=tool]")) input.addEventListener("change", () => { showHeat(null); });

// ---- the mask as a whole ------------------------------------------------------------------------------------------
const shapeFor = (site) => (byId("fineness").value === "fine" ? [store.facts.fine, store.facts.fine] : siteFacts(site).grid);
export const newMask = (site) => emptyMask(...shapeFor(site));
function withLayer(change) {
  const layer = selectedLayer();
  if (layer) changeLayer(store.selected, change(layer));
  else sayWrong("There is no layer: choose a feature and add it with +.");
}
byId("fill").addEventListener("click", () => withLayer(({ mask }) => ({ mask: fullMask(mask.rows, mask.columns) })));
byId("clear").addEventListener("click", () => withLayer(({ mask }) => ({ mask: emptyMask(mask.rows, mask.columns) })));
byId("fineness").addEventListener("change", () => {
  if (selectedLayer()) withLayer(({ site, mask }) => ({ mask: resized(mask, ...shapeFor(site)) }));
});

whenShown(drawAll);
subscribe((kind) => {
  if (kind !== "selected") heat = null; // it was of another picture
  const layer = selectedLayer();
  if (layer) byId("fineness").value = String(layer.mask.rows) === String(siteFacts(layer.site).grid[0]) ? "grid" : "fine";
  drawAll();
});
new ResizeObserver(drawAll).observe(over);

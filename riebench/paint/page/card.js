// The card of a feature: its facts, pictures and effect.
import { ask } from "./api.js";
import { addLayer, remember } from "./known.js";
import { work } from "./pictures.js";
import { sayWrong } from "./status.js";
import { store } from "./store.js";

const SIDE = 160, FULL = 255;
let open = null; // site and number of the feature whose card is open
const listeners = [];
export const isOpen = (site, number) => open?.site === site && open.number === number;
export const whenOpened = (listener) => listeners.push(listener);
const share = (value) => `${(100 * value).toFixed(value < 0.01 ? 3 : 1)} %`;

async function bitmapOf(path, options) { return createImageBitmap(await ask(path, { ...options, as: "blob" })); }

// The greyed picture, red where the feature is active.
async function paintTop(canvas, card, top, heat) {
  const bitmap = await bitmapOf("api/top", { query: { model: store.state.model, site: card.site, number: top.picture } });
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0, SIDE, SIDE);
  if (!heat) return;
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "#808080";
  context.fillRect(0, 0, SIDE, SIDE);
  context.globalCompositeOperation = "source-over";
  context.fillStyle = "rgba(255, 255, 255, 0.4)";
  context.fillRect(0, 0, SIDE, SIDE);
  const [rows, columns] = card.grid;
  top.heat.forEach((value, place) => {
    if (!value) return;
    const [row, column] = [Math.floor(place / columns), place % columns];
    context.fillStyle = `rgba(230, 40, 40, ${(0.85 * value) / FULL})`;
    context.fillRect((column * SIDE) / columns, (row * SIDE) / rows, SIDE / columns, SIDE / rows);
  });
}
function canvas(label) { return element("canvas", { width: SIDE, height: SIDE, role: "img", "aria-label": label }); }

function tops(card) {
  const box = element("div", { class: "tops" }), toggle = element("input", { type: "checkbox" });
  toggle.checked = true;
  const draw = () => {
    box.replaceChildren(...card.tops.map((top) => {
      const made = canvas(`${top.prompt}, seed ${top.seed}; highest value ${shown(top.highest, 1)}`);
      paintTop(made, card, top, toggle.checked).catch(() => {});
      return element("figure", { title: top.prompt }, made, element("figcaption", { text: `${shown(top.highest, 1)}: ${top.prompt}` }));
    }));
  };
  toggle.addEventListener("change", draw);
  draw();
  return [element("h3", {}, "top pictures ", element("label", { class: "line" }, toggle, " where it is active")), box];
}
function histogram(card) {
  const most = Math.max(1, ...card.histogram), bars = element("div", { class: "bars", role: "img", "aria-label": `histogram of values from 0 to ${shown(card.maximum, 1)}: ${card.histogram.join(", ")}` });
  for (const count of card.histogram) {
    const bar = element("i", { title: `${count} positions` });
    bar.style.height = `${(100 * count) / most}%`;
    bars.append(bar);
  }
  return [element("h3", { text: "values where it is active, in its top pictures" }), bars, element("div", { class: "ends" }, element("span", { text: "0" }), element("span", { text: shown(card.maximum, 1) }))];
}
async function effect(card, box, button, where) {
  const seed = store.state.seed, stop = new AbortController(), done = work(stop);
  button.disabled = true;
  try {
    const strip = await bitmapOf("api/effect", { body: { model: store.state.model, site: card.site, feature: card.number, seed }, signal: stop.signal });
    const strengths = store.facts.strengths, side = strip.width / strengths.length;
    box.replaceChildren(...strengths.map((strength, place) => {
      const made = canvas(`the neutral prompt with strength ${strength}`);
      made.getContext("2d").drawImage(strip, place * side, 0, side, side, 0, 0, SIDE, SIDE);
      return element("figure", {}, made, element("figcaption", { text: strength }));
    }));
    where.textContent = alone(seed);
  } catch (error) {
    if (error.status && error.status !== 409) sayWrong(error.message);
  } finally {
    button.disabled = false;
    done();
  }
}
const alone = (seed) => `alone: everywhere ${store.facts.neutral ? `in “${store.facts.neutral}”` : "in a picture without a prompt"}, at the seed ${seed}`;
export async function openCard(site, number) {
  const asked = { site, number };
  open = asked;
  listeners.forEach((listener) => listener());
  try {
    const card = await ask("api/feature", { query: { model: store.state.model, site, number } });
    remember(site, card);
    if (open === asked) drawCard(card);
  } catch (error) {
    if (error.status) sayWrong(error.message);
  }
}
export function closeCard() {
  open = null;
  byId("card").replaceChildren();
}
function drawCard(card) {
  const box = byId("card"), name = `${card.site} ${card.number}`;
  const add = element("button", { type: "button", text: "Add as a layer" });
  add.disabled = card.mean === null;
  add.addEventListener("click", () => addLayer(card.site, card));
  const strip = element("div", { class: "strip" }), show = element("button", { type: "button", text: "Show its effect alone" });
  show.disabled = card.mean === null;
  show.addEventListener("click", () => effect(card, strip, show, where));
  const where = element("div", { class: "soft", text: card.mean === null ? "It is never active in the index, so it has no unit of strength." : alone("above") });
  const facts = { density: share(card.density), mean: shown(card.mean, 2), maximum: shown(card.maximum, 2), ...(card.score_name ? { [card.score_name]: shown(card.score, 2) } : {}) };
  const near = element("div", { class: "near" }, ...card.nearest.map((feature) => {
    const made = element("button", { type: "button", text: `${feature.number} (${shown(feature.cosine, 2)}) ${feature.label ?? ""}` });
    made.addEventListener("click", () => openCard(card.site, feature.number));
    return made;
  }));
  box.replaceChildren(
    element("div", { class: "title" }, element("h2", { text: name }), element("span", { class: "soft", text: card.label ?? "" })),
    ...(card.description ? [element("p", { class: "said", text: card.description })] : []),
    element("dl", {}, ...Object.entries(facts).flatMap(([term, value]) => [element("dt", { text: term }), element("dd", { text: value })])),
    element("div", { class: "actions" }, add, show),
    where, strip,
    ...(card.tops.length ? [...histogram(card), ...tops(card)] : []),
    element("h3", { text: "nearest features (cosine)" }), near,
  );
}

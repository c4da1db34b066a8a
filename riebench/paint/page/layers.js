// The list of layers.
import { openCard } from "./card.js";
import { rowOf, whenLearned } from "./known.js";
import { covered } from "./mask.js";
import { hueOf } from "./stage.js";
import { changeLayer, commit, idle, select, store, subscribe } from "./store.js";

const nameOf = (layer) => {
  const row = rowOf(layer.site, layer.feature);
  return row ? row.description ?? row.label ?? "" : "";
};
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;

function button(text, label, act, disabled = false) {
  const made = element("button", { type: "button", text, "aria-label": label, title: label });
  made.disabled = disabled;
  made.addEventListener("click", (event) => { event.stopPropagation(); act(); });
  return made;
}
function numberInput(value, label, attributes, act) {
  const made = element("input", { type: "number", "aria-label": label, ...attributes });
  made.value = value;
  made.addEventListener("change", () => {
    const typed = Number(made.value);
    if (made.value === "" || !Number.isFinite(typed)) made.value = value;
    else act(Math.min(Number(attributes.max), Math.max(Number(attributes.min), typed)));
  });
  return made;
}
function move(number, by) {
  const layers = [...store.state.layers];
  [layers[number], layers[number + by]] = [layers[number + by], layers[number]];
  store.selected = number + by;
  commit({ layers });
}
function remove(number) {
  if (store.selected >= number && store.selected > 0) store.selected -= 1;
  commit({ layers: store.state.layers.filter((_, place) => place !== number) });
}
function lines(layer, number) {
  const most = store.facts.limits.strength, name = `layer ${number + 1}`;
  const slider = element("input", { type: "range", min: -20, max: 20, step: 0.5, "aria-label": `strength of ${name}` });
  slider.value = layer.strength;
  const exact = numberInput(layer.strength, `strength of ${name}, exact`, { min: -most, max: most, step: 0.5 }, (strength) => changeLayer(number, { strength }));
  slider.addEventListener("input", () => { exact.value = slider.value; changeLayer(number, { strength: Number(slider.value) }, true); });
  slider.addEventListener("change", () => commit());
  const steps = element("span", { class: "steps" }), why = idle(layer);
  if (store.state.steps === 1) steps.append("the only one");
  else {
    const last = store.state.steps - 1, of = layer.steps ?? { first: 0, last };
    const set = (first, end) => changeLayer(number, { steps: first === 0 && end === last ? null : { first: Math.min(first, end), last: Math.max(first, end) } });
    steps.append(
      numberInput(of.first, `first step of ${name}`, { min: 0, max: last, step: 1 }, (first) => set(Math.round(first), of.last)), "to",
      numberInput(of.last, `last step of ${name}`, { min: 0, max: last, step: 1 }, (end) => set(of.first, Math.round(end))), `of 0 to ${last}`,
    );
  }
  return element("div", { class: "lines" },
    element("span", { text: "strength" }), slider, exact, element("span", { text: "steps" }), steps,
    element("span", { class: "unit", text: `1 is ${shown(layer.unit, 2)}, the feature's mean active value; painted: ${percent(covered(layer.mask))}` }),
    ...(why ? [element("span", { class: "unit idle", text: `changes nothing: ${why}` })] : []));
}
function layerBox(layer, number) {
  const on = element("input", { type: "checkbox", "aria-label": `layer ${number + 1} on` });
  on.checked = layer.on;
  on.addEventListener("change", () => changeLayer(number, { on: on.checked }));
  const pick = element("button", { type: "button", class: "pick", "aria-pressed": number === store.selected },
    element("b", { text: `${layer.site} ${layer.feature}` }), ` ${nameOf(layer)}`);
  pick.addEventListener("click", () => { select(number); openCard(layer.site, layer.feature); });
  const made = element("div", { class: `layer${number === store.selected ? " selected" : ""}${layer.on ? "" : " off"}`, role: "group", "aria-label": `layer ${number + 1}: ${layer.site} ${layer.feature}` },
    element("div", { class: "head" }, on, pick,
      button("↑", `layer ${number + 1} up`, () => move(number, -1), number === 0),
      button("↓", `layer ${number + 1} down`, () => move(number, 1), number === store.state.layers.length - 1),
      button("✕", `remove layer ${number + 1}`, () => remove(number))));
  made.style.setProperty("--hue", hueOf(number));
  if (number === store.selected) made.append(lines(layer, number));
  return made;
}
function drawLayers() {
  const list = byId("layer-list"), focus = list.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  list.replaceChildren(...store.state.layers.map(layerBox));
  if (!store.state.layers.length) list.append(element("p", { class: "empty", text: "No layer yet. Find a feature, add it with +, then paint on the picture." }));
  if (focus) [...list.querySelectorAll("[aria-label]")].find((node) => node.getAttribute("aria-label") === focus)?.focus();
}
subscribe((kind) => {
  if (kind === "preview" && byId("layer-list").contains(document.activeElement)) return; // its slider is being moved
  drawLayers();
});
whenLearned(drawLayers);

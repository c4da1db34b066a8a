// The inputs of the generation: model, prompt with its choices, seed, steps.
import { commit, stateOf, store, subscribe } from "./store.js";

const prompt = byId("prompt"), seed = byId("seed"), steps = byId("steps"), grammar = byId("grammar"), compose = byId("compose"), model = byId("model");
let typed = null, made = null;

prompt.addEventListener("input", () => { clearTimeout(typed); typed = setTimeout(takePrompt, 350); });
prompt.addEventListener("change", takePrompt);
function takePrompt() {
  clearTimeout(typed);
  if (prompt.value !== store.state.prompt) commit({ prompt: prompt.value });
}
function whole(input, most) {
  const value = Math.round(Number(input.value)), least = Number(input.min);
  return input.value === "" || !Number.isFinite(value) ? null : Math.min(most, Math.max(least, value));
}
seed.addEventListener("change", () => {
  const value = whole(seed, store.facts.limits.seed);
  if (value === null) seed.value = store.state.seed;
  else commit({ seed: value });
  seed.value = store.state.seed;
});
byId("new-seed").addEventListener("click", () => commit({ seed: Math.floor(Math.random() * 1e6) }));
steps.addEventListener("change", () => {
  const value = whole(steps, store.facts.most_steps);
  if (value !== null) {
    const layers = store.state.layers.map((layer) => ({ ...layer, steps: layer.steps && layer.steps.last < value ? layer.steps : null }));
    commit({ steps: value, layers });
  }
  steps.value = store.state.steps;
});
model.addEventListener("change", () => {
  store.selected = -1;
  commit(stateOf(store.models.find((facts) => facts.name === model.value)));
});

// ---- choices of a grammar -----------------------------------------------------------------------------------------
const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
const says = (text, words) => words !== "" && new RegExp(`(^|\\s)${escaped(words)}(\\s|$)`, "i").test(text);
function makeChoices() {
  grammar.replaceChildren(...store.facts.grammar.map(({ attribute, needed, values }) => {
    const select = element("select", { "data-attribute": attribute });
    if (!needed) select.append(element("option", { value: "", text: "(unsaid)" }));
    for (const { value, words } of values) if (words !== "") select.append(element("option", { value: words, text: value }));
    select.addEventListener("change", write);
    return element("label", { text: attribute }, select);
  }));
}
function write() {
  const words = [...grammar.querySelectorAll("select")].map((select) => select.value).filter(Boolean).join(" ");
  prompt.value = `${/^[aeiou]/.test(words) ? "an" : "a"} ${words}`;
  takePrompt();
}
function read() {
  for (const select of grammar.querySelectorAll("select")) {
    const fitting = [...select.options].find((option) => says(store.state.prompt, option.value));
    select.value = fitting ? fitting.value : select.options[0].value;
  }
}
compose.addEventListener("click", () => {
  grammar.hidden = !grammar.hidden;
  compose.setAttribute("aria-expanded", String(!grammar.hidden));
});

subscribe(() => {
  const { state, facts, models } = store;
  if (made !== state.model) {
    made = state.model;
    model.replaceChildren(...models.map(({ name }) => element("option", { value: name, text: name })));
    steps.max = facts.most_steps;
    seed.max = facts.limits.seed;
    compose.hidden = !facts.grammar;
    if (!facts.grammar) grammar.hidden = true;
    else makeChoices();
  }
  model.value = state.model;
  if (document.activeElement !== prompt || prompt.value.trim() !== state.prompt.trim()) prompt.value = state.prompt;
  if (document.activeElement !== seed) seed.value = state.seed;
  if (document.activeElement !== steps) steps.value = state.steps;
  if (facts.grammar) read();
});

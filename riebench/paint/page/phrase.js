// Filling the mask of a layer where a phrase is in the picture.
import { ask } from "./api.js";
import { askedState, work } from "./pictures.js";
import { say, sayWrong } from "./status.js";
import { changeLayer, selectedLayer, store, subscribe } from "./store.js";

byId("phrase-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const layer = selectedLayer(), number = store.selected, phrase = byId("phrase").value.trim();
  if (!layer) return sayWrong("There is no layer to fill: choose a feature and add it with +.");
  if (!phrase) return sayWrong("Which phrase? For example: the heart");
  const stop = new AbortController(), done = work(stop), { rows, columns } = layer.mask;
  try {
    const mask = await ask("api/region", { body: { state: { ...askedState(), layers: [] }, site: layer.site, phrase, rows, columns }, signal: stop.signal });
    if (store.state.layers[number]?.site === layer.site) changeLayer(number, { mask });
    say("");
  } catch (error) {
    if (error.status && error.status !== 409) sayWrong(error.message);
  } finally { done(); }
  return undefined;
});
subscribe(() => {
  byId("phrase-form").hidden = !store.facts.masker;
  if (byId("phrases").childElementCount !== store.facts.phrases.length) byId("phrases").replaceChildren(...store.facts.phrases.map((value) => element("option", { value: `the ${value}` })));
});

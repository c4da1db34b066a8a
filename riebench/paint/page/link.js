// The state as the fragment of the address: deflated JSON in base64url, as riebench.paint.state has it.
const KEY = "#s=";
async function through(stream, bytes) {
  const writer = stream.writable.getWriter();
  const written = writer.write(bytes).then(() => writer.close());
  const [buffer] = await Promise.all([new Response(stream.readable).arrayBuffer(), written]);
  return new Uint8Array(buffer);
}
export async function fragmentOf(state) {
  const packed = await through(new CompressionStream("deflate-raw"), new TextEncoder().encode(JSON.stringify(state)));
  let text = "";
  for (const byte of packed) text += String.fromCharCode(byte);
  return KEY + btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
// The state of an address; null if the address holds none. Throws a sentence.
export async function stateIn(fragment) {
  if (!fragment.startsWith(KEY)) return null;
  try { return await unpacked(fragment); } catch { throw new Error("it holds no state; copy the whole link"); }
}
async function unpacked(fragment) {
  const text = atob(fragment.slice(KEY.length).replaceAll("-", "+").replaceAll("_", "/"));
  const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  return JSON.parse(new TextDecoder().decode(await through(new DecompressionStream("deflate-raw"), bytes)));
}
function refuseUnknown(read, known, name) {
  const unknown = Object.keys(read ?? {}).find((part) => !known.includes(part));
  if (unknown !== undefined) throw new Error(`${name} has the unknown part "${unknown}"`);
}
// The state of a file or a link, with the parts that the page relies on checked; the server checks the rest. What it does not
// say of weights, settings and SAEs is taken from here, as its picture is. Throws a sentence.
export function usable(read, models) {
  const is = (value, kind) => typeof value === kind;
  if (!read || !is(read, "object") || !is(read.prompt, "string")) throw new Error("it holds no state of this page");
  const name = read.model ?? "mini";
  const facts = models.find((model) => model.name === name);
  if (!facts) throw new Error(`it is of the model ${String(name)}, which this server has not loaded`);
  refuseUnknown(read, ["version", "model", "weights", "conditions", "prompt", "seed", "steps", "layers"], "it");
  if (!Array.isArray(read.layers ?? [])) throw new Error("its layers are no list");
  const isText = (value) => (value ?? null) === null || is(value, "string");
  const isConditions = (value) => (value ?? null) === null || (is(value, "object") && Object.values(value).every((one) => is(one, "string") || Number.isFinite(one)));
  if (!isText(read.weights) || !isConditions(read.conditions)) throw new Error("its weights or conditions cannot be read");
  const layers = (read.layers ?? []).map((layer) => {
    const mask = layer?.mask;
    refuseUnknown(layer, ["site", "feature", "sae", "unit", "strength", "mask", "steps", "on"], "a layer of it");
    if (!isText(layer?.sae)) throw new Error("a layer of it has an SAE that cannot be read");
    const fits = mask && Array.isArray(mask.runs) && mask.rows >= 1 && mask.rows <= 256 && mask.columns >= 1 && mask.columns <= 256
      && mask.runs.every((run) => Number.isInteger(run) && run >= 0) && mask.runs.reduce((a, b) => a + b, 0) === mask.rows * mask.columns;
    if (!fits) throw new Error("a layer of it has no mask that can be read");
    if (!facts.sites.some((site) => site.site === layer.site)) throw new Error(`a layer of it is at ${String(layer.site)}, where this model has no SAE`);
    if (!["feature", "unit", "strength"].every((part) => Number.isFinite(layer[part]))) throw new Error("a layer of it has a number that cannot be read");
    const here = facts.sites.find((site) => site.site === layer.site).sae;
    return { site: layer.site, feature: layer.feature, sae: layer.sae ?? here, unit: layer.unit, strength: layer.strength, mask: { rows: mask.rows, columns: mask.columns, runs: mask.runs }, steps: layer.steps ?? null, on: layer.on ?? true };
  });
  if (layers.length > facts.limits.layers) throw new Error(`it has ${layers.length} layers, more than ${facts.limits.layers}`);
  return { version: [undefined, 1].includes(read.version) ? 2 : read.version, model: name, weights: read.weights ?? facts.weights, conditions: read.conditions ?? facts.conditions, prompt: read.prompt, seed: read.seed ?? 0, steps: read.steps ?? 1, layers };
}

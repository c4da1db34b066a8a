(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SHORT = { clip_text_edit: "CLIP", lpips_base: "LPIPS" };
  const ANY = "any";

  const named = (arm) => (arm.blocks === ANY ? arm.label : `${arm.label}, ${arm.where}`);
  const short = (metric) => SHORT[metric] || metric;
  const valueOf = (values, metric) => values[data.metrics.indexOf(metric)];
  const inBlocks = (arm, blocks) => !blocks || arm.blocks === blocks || arm.blocks === ANY;
  const inSteps = (arm, steps) => !steps || arm.steps === steps || arm.steps === ANY;

  // The intervals of the denoising steps; with a single one there is nothing to choose.
  function offerSteps(select) {
    options(select, data.intervals.map((name) => [name, name]));
    select.parentNode.hidden = data.intervals.length < 2;
  }

  // ---- curves ------------------------------------------------------------------------------------------------
  const chart = byId("chart"), tip = byId("tip");
  const hidden = new Set();
  const [upwards, across] = [byId("curve-y"), byId("curve-x")];

  function say(point) {
    const arm = data.arms[point.arm];
    const k = point.k === null ? "" : `, k ${point.k}`;
    const lines = [`${named(arm)}${k}, strength ${point.strength}`, `${point.pairs} ${point.pairs === 1 ? "pair" : "pairs"}`];
    for (const metric of new Set([upwards.value, across.value, ...data.named])) {
      const [mean, low, high, pairs] = valueOf(point.values, metric);
      const fewer = pairs < point.pairs ? `, over ${pairs} of them` : "";
      if (mean !== null) lines.push(`${short(metric)} ${shown(mean)} (${low === null ? "no interval" : `${shown(low)} to ${shown(high)}`})${fewer}`);
    }
    return lines.join("\n");
  }

  function showTip(node, point, near) {
    const more = near.length > 3 ? `\nand ${near.length - 3} more here` : "";
    tip.textContent = [point, ...near.filter((p) => p !== point)].slice(0, 3).map(say).join("\n\n") + more;
    tip.hidden = false;
    const box = chart.parentNode.getBoundingClientRect(), at = node.getBoundingClientRect();
    tip.style.left = `${Math.max(0, Math.min(at.left - box.left + 14, box.width - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(0, at.top - box.top - tip.offsetHeight - 8)}px`;
  }

  function drawCurves() {
    const category = byId("curve-category").value, blocks = byId("curve-blocks").value, steps = byId("curve-steps").value;
    const at = (p) => valueOf(p.values, across.value)[0], up = (p, end = 0) => valueOf(p.values, upwards.value)[end];
    const points = data.curves.filter(
      (p) => p.category === category && inBlocks(data.arms[p.arm], blocks) && inSteps(data.arms[p.arm], steps) &&
        !hidden.has(data.arms[p.arm].label) && at(p) !== null && up(p) !== null
    );
    chart.replaceChildren();
    tip.hidden = true;
    byId("curve-none").hidden = points.length > 0;
    if (!points.length) return;
    const [width, height, left, bottom, top, right] = [860, 440, 62, 48, 12, 14];
    const span = (values) => {
      const low = Math.min(...values), high = Math.max(...values), rest = (high - low || 0.01) * 0.05;
      return [low - rest, high + rest];
    };
    // Base and source image, and the means at an LPIPS that was searched for: [across, upwards, shape, colour, words].
    const marks = [
      ...data.images.filter((m) => m.category === category)
        .map((m) => [m[across.value], m[upwards.value], m.image === "base image" ? "circle" : "star", "var(--ink)", m.image]),
      ...data.searched.filter((p) => p.category === category && inBlocks(data.arms[p.arm], blocks) &&
          inSteps(data.arms[p.arm], steps) && !hidden.has(data.arms[p.arm].label))
        .map((p) => [valueOf(p.values, across.value), valueOf(p.values, upwards.value), "diamond", data.arms[p.arm].colour,
          `${named(data.arms[p.arm])}${p.k === null ? "" : `, k ${p.k}`}, each pair at LPIPS ${p.at_lpips}; ${p.pairs} pairs`]),
    ].filter(([a, b]) => typeof a === "number" && typeof b === "number");
    const ends = points.flatMap((p) => [0, 1, 2].map((end) => up(p, end)).filter((v) => v !== null));
    const [x0, x1] = span([...points.map(at), ...marks.map((m) => m[0])]), [y0, y1] = span([...ends, ...marks.map((m) => m[1])]);
    const x = (v) => left + ((v - x0) / (x1 - x0)) * (width - left - right);
    const y = (v) => height - bottom - ((v - y0) / (y1 - y0)) * (height - bottom - top);
    const [xs, xd] = ticks(x0, x1, 8), [ys, yd] = ticks(y0, y1, 6);
    for (const v of xs) {
      drawn("line", { x1: x(v), x2: x(v), y1: top, y2: height - bottom, class: "grid" }, chart);
      drawn("text", { x: x(v), y: height - bottom + 16, "text-anchor": "middle" }, chart).textContent = v.toFixed(xd);
    }
    for (const v of ys) {
      drawn("line", { x1: left, x2: width - right, y1: y(v), y2: y(v), class: "grid" }, chart);
      drawn("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, chart).textContent = v.toFixed(yd);
    }
    const below = drawn("text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, chart);
    below.textContent = data.axes[across.value] || across.value;
    const beside = drawn("text", { transform: `translate(14 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, chart);
    beside.textContent = data.axes[upwards.value] || upwards.value;
    const paths = new Map();
    for (const p of points) {
      const key = `${p.arm}/${p.k}`;
      if (!paths.has(key)) paths.set(key, []);
      paths.get(key).push(p);
    }
    const labels = [...new Set(data.arms.map((a) => a.label))];
    // Bands below all lines, lines below all points, so that nothing hides a point from the pointer.
    const SHAPES = {
      circle: "M-6,0a6,6 0 1,0 12,0a6,6 0 1,0 -12,0",
      diamond: "M0,-7L7,0L0,7L-7,0Z",
      star: "M0,-8L2,-2.5L8,-2.5L3,1L5,7L0,3.5L-5,7L-3,1L-8,-2.5L-2,-2.5Z",
    };
    const [bands, lines, spots] = ["bands", "lines", "spots"].map((name) => drawn("g", { class: name }, chart));
    for (const path of paths.values()) {
      path.sort((a, b) => a.strength - b.strength);
      const arm = data.arms[path[0].arm];
      const same = labels.filter((l) => data.arms.find((a) => a.label === l).colour === arm.colour).indexOf(arm.label);
      const dash = ["", "7 4", "2 3", "9 3 2 3", "14 4", "5 2 1 2 1 2", "1 5"][same % 7];
      const low = path.map((p) => `${x(at(p))},${y(up(p, 1) ?? up(p))}`);
      const high = path.map((p) => `${x(at(p))},${y(up(p, 2) ?? up(p))}`).reverse();
      drawn("polygon", { points: [...low, ...high].join(" "), fill: arm.colour, opacity: 0.13 }, bands);
      const line = path.map((p) => `${x(at(p))},${y(up(p))}`).join(" ");
      drawn("polyline", { points: line, fill: "none", stroke: arm.colour, "stroke-width": 2, "stroke-dasharray": dash }, lines);
      const most = Math.max(...path.map((p) => p.strength), 1e-9);
      for (const p of path) {
        const spot = { cx: x(at(p)), cy: y(up(p)), r: 3 + (3.5 * Math.max(0, p.strength)) / most, fill: arm.colour };
        const node = drawn("circle", { ...spot, class: "point", tabindex: 0, role: "img", "aria-label": say(p) }, spots);
        const near = points.filter((o) => Math.hypot(x(at(o)) - spot.cx, y(up(o)) - spot.cy) < 5);
        for (const event of ["mouseenter", "focus"]) node.addEventListener(event, () => showTip(node, p, near));
        for (const event of ["mouseleave", "blur"]) node.addEventListener(event, () => { tip.hidden = true; });
      }
    }
    for (const [a, b, shape, colour, words] of marks) {
      const place = { d: SHAPES[shape], transform: `translate(${x(a)} ${y(b)})`, fill: "var(--paper, #fff)", stroke: colour, "stroke-width": 2 };
      const node = drawn("path", { ...place, role: "img", "aria-label": words }, spots);
      drawn("title", {}, node).textContent = `${words}\n${short(upwards.value)} ${shown(b)}\n${short(across.value)} ${shown(a)}`;
    }
  }

  function setUpCurves() {
    const scopes = [...new Set(data.curves.map((p) => p.category))];
    options(byId("curve-category"), scopes.map((s) => [s, s]));
    options(byId("curve-blocks"), data.blocks.map((b) => [b.blocks, b.where]));
    byId("curve-blocks").value = data.main;
    offerSteps(byId("curve-steps"));
    for (const [select, metric] of [[upwards, data.metrics[0]], [across, data.metrics[1]]]) {
      options(select, data.metrics.map((m) => [m, short(m)]));
      select.value = metric;
    }
    for (const label of [...new Set(data.arms.map((a) => a.label))].sort()) {
      const arm = data.arms.find((a) => a.label === label);
      const box = element("input", { type: "checkbox", checked: "", value: label });
      box.addEventListener("change", () => { box.checked ? hidden.delete(label) : hidden.add(label); drawCurves(); });
      const dot = element("span", { class: "dot" });
      dot.style.background = arm.colour;
      byId("curve-methods").append(element("label", {}, box, " ", dot, label));
    }
    for (const id of ["curve-category", "curve-blocks", "curve-steps", "curve-y", "curve-x"]) byId(id).addEventListener("change", drawCurves);
    drawCurves();
  }

  // ---- gallery -----------------------------------------------------------------------------------------------
  // A record is [arm, k, strength, metrics, picture, reason, counts]; the last is 1 if the score at the ranking budget is
  // of this picture, 2 if it is read between two of them, and 0 otherwise.
  const COUNTS = "counts";
  const cards = byId("cards"), filters = ["category", "method", "blocks", "steps", "strength", "sort"].map((n) => byId(`by-${n}`));
  const [byCategory, byMethod, byBlocks, bySteps, byStrength, bySort] = filters;
  let current = [];

  const wanted = (record) => {
    const arm = data.arms[record[0]];
    return (!byMethod.value || arm.label === byMethod.value) && inBlocks(arm, byBlocks.value) &&
      inSteps(arm, bySteps.value) &&
      (!byStrength.value || (byStrength.value === COUNTS ? record[6] > 0 : String(record[2]) === byStrength.value));
  };

  function average(pair, metric) {
    const values = pair.records.filter(wanted).map((r) => valueOf(r[3], metric)).filter((v) => v !== null);
    return values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
  }

  function chosen() {
    let pairs = data.pairs.filter((p) => (!byCategory.value || p.category === byCategory.value) && p.records.some(wanted));
    if (bySort.value) {
      const [metric, end] = bySort.value.split(" ");
      const sign = end === "highest" ? -1 : 1;
      const value = new Map(pairs.map((p) => [p, average(p, metric)]));
      const rank = (p) => (value.get(p) === null ? Infinity : sign * value.get(p));
      pairs = [...pairs].sort((a, b) => rank(a) - rank(b) || a.index - b.index);
    }
    return pairs;
  }

  function tile(uri, alt, caption, gap, counts = 0) {
    const picture = uri ? element("img", { src: uri, alt, width: 128, height: 128 }) : element("div", { class: "gap", text: gap });
    return element("figure", counts ? { class: "counts" } : {}, picture, element("figcaption", { text: caption }));
  }

  function caption(record) {
    const lines = [`${record[1] === null ? "" : `k ${record[1]}, `}strength ${record[2]}`];
    const sorted = bySort.value ? [bySort.value.split(" ")[0]] : [];
    for (const metric of new Set([...data.named, ...sorted])) {
      const value = valueOf(record[3], metric);
      if (value !== null) lines.push(`${short(metric)} ${shown(value)}`);
    }
    if (record[6] === 1) lines.unshift(`counts at LPIPS ${data.budget}`);
    if (record[6] === 2) lines.unshift(`one of the two that count at LPIPS ${data.budget}`);
    return lines.join("\n");
  }

  function fill(card, pair) {
    const holder = byId(`pictures-${pair.index}`);
    const pictures = holder ? JSON.parse(holder.textContent) : {};
    const link = element("a", { href: `#pair=${encodeURIComponent(pair.id)}`, text: pair.id });
    const title = element("h3", {}, link, element("span", { class: "soft", text: `  ${pair.category}` }));
    const prompts = element("p", { class: "prompts", text: `${pair.original}  →  ${pair.editing}` });
    const first = element("div", { class: "strip" }, element("div", { class: "who", text: "references" }));
    for (const [name, text] of [["base", "base"], ["source", "source"], ["mask-base", "base mask"], ["mask-source", "source mask"]])
      first.append(tile(pictures[name], `${text} of ${pair.id}`, text, "picture missing"));
    card.replaceChildren(title, prompts, first);
    const rows = new Map();
    for (const record of pair.records.filter(wanted)) {
      if (!rows.has(record[0])) rows.set(record[0], []);
      rows.get(record[0]).push(record);
    }
    for (const [index, records] of rows) {
      const arm = data.arms[index], dot = element("span", { class: "dot" });
      dot.style.background = arm.colour;
      const strip = element("div", { class: "strip" }, element("div", { class: "who" }, dot, named(arm)));
      for (const record of records) {
        const failed = record[5] !== null;
        const alt = `edited by ${named(arm)}, strength ${record[2]}`;
        strip.append(tile(pictures[record[4]], alt, caption(record), failed ? `failed: ${record[5]}` : "picture missing", record[6]));
      }
      card.append(strip);
    }
    card.style.minHeight = "";
  }

  function empty(card) {
    if (!card.firstChild) return;
    card.style.minHeight = `${card.offsetHeight}px`;
    card.replaceChildren();
  }

  // Cards are filled as they come near and emptied as they leave, so that a page of any length holds few pictures.
  const watcher = new IntersectionObserver(
    (entries) => entries.forEach((entry) => {
      const card = entry.target;
      if (!entry.isIntersecting) empty(card);
      else if (!card.firstChild) fill(card, data.pairs[Number(card.dataset.index)]);
    }),
    { rootMargin: "1200px 0px" }
  );

  function show() {
    watcher.disconnect();
    current = chosen();
    byId("count").textContent = `${current.length} of ${data.pairs.length} pairs`;
    cards.replaceChildren();
    for (const pair of current) {
      const card = element("article", { class: "card", id: `card-${pair.index}`, "data-index": pair.index, "aria-label": `pair ${pair.id}` });
      const rows = new Set(pair.records.filter(wanted).map((r) => r[0])).size;
      card.style.minHeight = `${80 + 205 * (rows + 1)}px`;
      cards.append(card);
      watcher.observe(card);
    }
  }

  function aim() {
    document.querySelectorAll(".aimed").forEach((card) => card.classList.remove("aimed"));
    const aimedAt = new URLSearchParams(location.hash.slice(1)).get("pair");
    if (aimedAt === null) return;
    const pair = data.pairs.find((p) => p.id === aimedAt);
    byId("unknown").hidden = Boolean(pair);
    byId("unknown").textContent = `There are no pictures of the pair ${aimedAt} on this page.`;
    if (!pair) return;
    if (!current.includes(pair)) {
      reset();
      show();
    }
    const card = byId(`card-${pair.index}`);
    fill(card, pair);
    card.classList.add("aimed");
    card.scrollIntoView();
    requestAnimationFrame(() => requestAnimationFrame(() => card.scrollIntoView()));
  }

  function reset() {
    for (const select of filters) select.value = "";
    byBlocks.value = data.pairs.length && data.blocks.length > 1 ? data.main : "";
  }

  function setUpGallery() {
    const distinct = (values) => [...new Set(values)];
    options(byCategory, distinct(data.pairs.map((p) => p.category)).map((c) => [c, c]));
    options(byMethod, distinct(data.arms.map((a) => a.label)).sort().map((l) => [l, l]));
    options(byBlocks, data.blocks.map((b) => [b.blocks, b.where]));
    offerSteps(bySteps);
    const strengths = distinct(data.pairs.flatMap((p) => p.records.map((r) => r[2]))).sort((a, b) => a - b);
    const counted = data.pairs.some((p) => p.records.some((r) => r[6]));
    options(byStrength, [...(counted ? [[COUNTS, `what counts at LPIPS ${data.budget}`]] : []), ...strengths.map((s) => [String(s), String(s)])]);
    options(bySort, data.metrics.flatMap((m) => ["lowest", "highest"].map((end) => [`${m} ${end}`, `${end} ${short(m)} first`])));
    for (const select of filters) select.addEventListener("change", show);
    byId("reset").addEventListener("click", () => { reset(); show(); });
    reset();
    show();
    window.addEventListener("hashchange", aim);
    aim();
  }

  if (data.curves.length) setUpCurves();
  if (data.pairs.length) setUpGallery();
})();

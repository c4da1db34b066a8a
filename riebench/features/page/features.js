(() => {
  const data = JSON.parse(byId("data").textContent);
  const columns = data.columns;
  const total = columns.density.length;
  const EACH = 100, BLOCK = data.block, SIDE = 128, MASKED = [230, 40, 40];
  const numbers = Array.from({ length: total }, (_, number) => number);

  // ---- pictures: held as text in blocks, read when they are needed --------------------------------------------
  const blocks = new Map();
  function held(kind, place) {
    const id = `${kind}-${Math.floor(place / BLOCK)}`;
    if (!blocks.has(id)) blocks.set(id, JSON.parse(byId(id).textContent));
    return blocks.get(id)[place % BLOCK];
  }
  const picture = (place) => held("pictures", place);
  const heat = (number) => held("heat", number);
  const thumb = (number, place = 0) => {
    const [prompt] = data.prompted[columns.pictures[number][place]];
    return element("img", { src: picture(columns.pictures[number][place]), alt: prompt, loading: "lazy", decoding: "async" });
  };
  async function loaded(uri) {
    const image = new Image();
    image.src = uri;
    await image.decode();
    return image;
  }

  // The greyed picture with red where the feature is active: the same look as masks have in the report.
  async function paintHeat(canvas, number, place) {
    const [below, strip] = await Promise.all([loaded(picture(columns.pictures[number][place])), loaded(heat(number))]);
    const [rows, across] = data.grid;
    const cells = element("canvas", { width: across, height: rows });
    const small = cells.getContext("2d", { willReadFrequently: true });
    small.drawImage(strip, place * across, 0, across, rows, 0, 0, across, rows);
    const pixels = small.getImageData(0, 0, across, rows);
    for (let i = 0; i < pixels.data.length; i += 4) {
      const strength = pixels.data[i];
      pixels.data.set([...MASKED, 0.85 * strength], i);
    }
    small.putImageData(pixels, 0, 0);
    const context = canvas.getContext("2d");
    context.drawImage(below, 0, 0, SIDE, SIDE);
    context.globalCompositeOperation = "saturation";
    context.fillStyle = "#808080";
    context.fillRect(0, 0, SIDE, SIDE);
    context.globalCompositeOperation = "source-over";
    context.fillStyle = "rgba(255, 255, 255, 0.4)";
    context.fillRect(0, 0, SIDE, SIDE);
    context.imageSmoothingEnabled = false;
    context.drawImage(cells, 0, 0, SIDE, SIDE);
    canvas.dataset.painted = "yes";
  }

  // ---- which features are listed, and in which order ----------------------------------------------------------
  const share = (value) => {
    const text = 100 * value;
    return value === 0 ? "0 %" : text < 0.001 ? "< 0.001 %" : `${text >= 10 ? text.toFixed(1) : text >= 1 ? text.toFixed(2) : text.toFixed(3)} %`;
  };
  const code = (value) => shown(value, 2);
  const HEADS = [
    { key: "number", text: "feature", values: numbers, rising: true },
    { key: "some", text: "pictures" },
    ...(data.score ? [
      { key: "label", text: "detects", values: columns.label, word: true, rising: true },
      { key: "score", text: data.score, values: columns.score, say: (v) => shown(v, 2) },
    ] : []),
    { key: "density", text: "density", values: columns.density, say: share },
    { key: "mean", text: "mean", values: columns.mean, say: code, spare: true },
    { key: "maximum", text: "max.", values: columns.maximum, say: code, spare: true },
  ];
  const query = byId("query"), least = byId("least");
  let order = { key: data.score ? "score" : "density", rising: false };
  let bin = null, listed = [], open = null;

  const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  // As FeatureIndex.search: every word begins a word of the label, or one in at least half of the prompts.
  function matching(text) {
    const words = text.trim().split(/\s+/).filter(Boolean);
    if (!words.length) return null;
    if (words.length === 1 && /^\d+$/.test(words[0]) && Number(words[0]) < total) return new Set([Number(words[0])]);
    const tests = words.map((word) => new RegExp(`(?<![\\p{L}\\p{N}_])${escaped(word)}`, "iu"));
    const fits = (sentence) => tests.every((test) => test.test(sentence));
    const prompts = data.prompted.map(([prompt]) => fits(prompt));
    return new Set(numbers.filter((number) => {
      const tops = columns.pictures[number];
      const fitting = tops.reduce((sum, place) => sum + prompts[place], 0);
      return fits(columns.label[number] || "") || (tops.length > 0 && 2 * fitting >= tops.length);
    }));
  }

  function choose() {
    const found = matching(query.value), lowest = least && least.value !== "" ? Number(least.value) : null;
    const values = HEADS.find((head) => head.key === order.key).values, sign = order.rising ? 1 : -1;
    const before = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
    listed = numbers.filter(
      (n) => (!found || found.has(n)) && (lowest === null || (columns.score[n] ?? -1) >= lowest) && (bin === null || bins.of(n) === bin)
    );
    listed.sort((a, b) => {
      const [x, y] = [values[a], values[b]];
      if (x === null || y === null) return (x === null) - (y === null) || a - b;
      return sign * before(x, y) || a - b;
    });
  }

  // ---- table: rows are made as one scrolls to them ------------------------------------------------------------
  const body = byId("rows"), more = byId("more");
  function row(number) {
    const link = element("a", { href: `#feature=${number}`, text: number });
    const cells = HEADS.map((head) => {
      const cell = element("td", { class: `${head.word || head.key === "some" ? "word" : ""} ${head.key} ${head.spare ? "narrow-off" : ""}` });
      if (head.key === "number") cell.append(link);
      else if (head.key === "some") cell.append(...columns.pictures[number].slice(0, 3).map((_, place) => thumb(number, place)));
      else cell.textContent = head.say ? head.say(head.values[number]) : head.values[number] ?? "–";
      return cell;
    });
    const made = element("tr", { "data-number": number, ...(number === open ? { class: "open" } : {}) }, ...cells);
    made.addEventListener("click", () => { location.hash = `feature=${number}`; });
    return made;
  }
  function extend() {
    const from = body.childElementCount;
    body.append(...listed.slice(from, from + EACH).map(row));
  }
  new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) extend(); }, { rootMargin: "1200px 0px" }).observe(more);

  function show() {
    choose();
    body.replaceChildren();
    body.closest(".rows").scrollTop = 0;
    extend();
    byId("count").textContent = `${listed.length} of ${total} features`;
    for (const head of document.querySelectorAll("#heads th[data-key]")) {
      if (head.dataset.key === order.key) head.setAttribute("aria-sort", order.rising ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
  }

  function setUpHeads() {
    for (const head of HEADS) {
      const made = element("th", { scope: "col", class: `${head.word || head.key === "some" ? "word" : ""} ${head.spare ? "narrow-off" : ""}` });
      byId("heads").append(made);
      if (!head.values) { made.textContent = head.text; continue; }
      made.dataset.key = head.key;
      const button = element("button", { type: "button", text: head.text });
      button.addEventListener("click", () => {
        order = { key: head.key, rising: order.key === head.key ? !order.rising : Boolean(head.rising) };
        show();
      });
      made.append(button);
    }
  }

  // ---- histogram of densities ---------------------------------------------------------------------------------
  const bins = (() => {
    const live = columns.density.filter((d) => d > 0).map(Math.log10);
    const low = live.reduce((a, b) => Math.min(a, b), 0), high = live.reduce((a, b) => Math.max(a, b), -9), count = 40;
    const width = (high - low || 1) / count;
    const of = (n) => (columns.density[n] > 0 ? Math.min(count - 1, Math.floor((Math.log10(columns.density[n]) - low) / width)) : -1);
    const heights = new Array(count).fill(0);
    for (const n of numbers) if (of(n) >= 0) heights[of(n)] += 1;
    const ends = (i) => [10 ** (low + i * width), 10 ** (low + (i + 1) * width)];
    return { of, heights, ends, low, high: low + width * count, count, any: live.length > 0 };
  })();

  function drawHistogram() {
    const svg = byId("histogram");
    svg.replaceChildren();
    if (!bins.any) return;
    const [width, height, left, right, top, bottom] = [svg.clientWidth || 900, 132, 40, 12, 10, 24];
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const x = (v) => left + ((v - bins.low) / (bins.high - bins.low)) * (width - left - right);
    const most = bins.heights.reduce((a, b) => Math.max(a, b), 0), y = (v) => height - bottom - (v / most) * (height - bottom - top);
    const [levels] = ticks(0, most, 3);
    for (const v of levels) {
      drawn("line", { x1: left, x2: width - right, y1: y(v), y2: y(v), class: "grid" }, svg);
      drawn("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, svg).textContent = v;
    }
    for (let power = Math.ceil(bins.low); power <= bins.high; power += 1)
      drawn("text", { x: x(power), y: height - 7, "text-anchor": "middle" }, svg).textContent = `${Number((100 * 10 ** power).toPrecision(1))} %`;
    bins.heights.forEach((count, i) => {
      const [from, to] = bins.ends(i), at = x(Math.log10(from)), wide = x(Math.log10(to)) - at;
      const name = `density ${share(from)} to ${share(to)}: ${count} ${count === 1 ? "feature" : "features"}`;
      const group = drawn("g", { class: "bin", ...(count ? { tabindex: 0, role: "button", "aria-pressed": bin === i, "aria-label": name } : {}) }, svg);
      if (!count) return;
      drawn("title", {}, group).textContent = name;
      drawn("rect", { x: at, y: top, width: wide, height: height - bottom - top, class: "reach" }, group);
      drawn("rect", { x: at + 1, y: y(count), width: Math.max(1, wide - 2), height: height - bottom - y(count), class: bin === null || bin === i ? "" : "off" }, group);
      const toggle = () => { setBin(bin === i ? null : i); show(); };
      group.addEventListener("click", toggle);
      group.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggle(); } });
    });
  }

  function setBin(chosen) {
    bin = chosen;
    const button = byId("density");
    button.hidden = bin === null;
    if (bin !== null) button.textContent = `density ${bins.ends(bin).map(share).join(" to ")} ×`;
    drawHistogram();
  }

  // ---- one feature --------------------------------------------------------------------------------------------
  const link = (number, text) => element("a", { href: `#feature=${number}`, text });

  function facts(number) {
    const list = element("dl");
    const shownFacts = [
      ...(data.score ? [["detects", columns.label[number] ?? "–"], [data.score, shown(columns.score[number])]] : []),
      ["density", share(columns.density[number])],
      ["mean code", code(columns.mean[number])],
      ["max. code", code(columns.maximum[number])],
    ];
    for (const [name, value] of shownFacts) list.append(element("div", {}, element("dt", { text: name }), element("dd", { text: value })));
    return list;
  }

  function top(number, place) {
    const at = columns.pictures[number][place], [prompt, seed] = data.prompted[at];
    const canvas = element("canvas", { width: SIDE, height: SIDE, role: "img", "aria-label": `where feature ${number} is active` });
    paintHeat(canvas, number, place).catch(() => canvas.replaceWith(element("span", { class: "soft", text: "heat map cannot be drawn" })));
    const two = element("div", { class: "two" }, element("img", { src: picture(at), alt: prompt }), canvas);
    return element("figure", {}, two, element("figcaption", { text: `${code(columns.highest[number][place])} · ${prompt} · seed ${seed}` }));
  }

  function near(number, place) {
    const other = columns.nearest[number][place];
    const name = data.score && columns.label[other] ? ` ${columns.label[other]}` : "";
    const made = element("li");
    if (columns.pictures[other].length) made.append(thumb(other));
    made.append(link(other, `${other}${name}`), element("span", { class: "soft", text: ` cosine ${shown(columns.cosines[number][place], 2)}` }));
    return made;
  }

  function draw(number) {
    const one = byId("one"), place = listed.indexOf(number);
    const title = element("h2", {}, `Feature ${number}`);
    const steps = element("small");
    if (place > 0) steps.append(link(listed[place - 1], "previous"), " ");
    if (place >= 0 && place + 1 < listed.length) steps.append(link(listed[place + 1], "next"), " ");
    steps.append(element("a", { href: "#features", text: "list" }));
    title.append(steps);
    const tops = element("div", { class: "tops" }, ...columns.pictures[number].map((_, i) => top(number, i)));
    const silent = element("p", { class: "soft", text: "It is active in none of the pictures." });
    const nearest = element("ul", { class: "near" }, ...columns.nearest[number].map((_, i) => near(number, i)));
    one.replaceChildren(
      title, facts(number),
      element("h3", { text: "Top pictures, largest code first, with where it is active" }), tops.childElementCount ? tops : silent,
      element("h3", { text: "Nearest features by decoder direction" }), nearest
    );
    one.scrollTop = 0;
  }

  function mark(number) {
    open = number;
    for (const made of body.children) made.classList.toggle("open", Number(made.dataset.number) === number);
  }

  function aim() {
    const asked = new URLSearchParams(location.hash.slice(1)).get("feature");
    if (asked === null) return;
    const number = /^\d+$/.test(asked) ? Number(asked) : NaN, one = byId("one");
    if (!(number < total)) {
      mark(null);
      one.replaceChildren(element("p", { class: "soft", text: `There is no feature ${asked}; there are the features 0 to ${total - 1}.` }));
    } else {
      mark(number);
      draw(number);
    }
    if (getComputedStyle(one).position === "static") one.scrollIntoView();
    one.focus({ preventScroll: true });
  }

  function reset() {
    query.value = "";
    if (least) least.value = "";
    setBin(null);
    show();
  }

  setUpHeads();
  for (const input of [query, least]) if (input) input.addEventListener("input", show);
  byId("density").addEventListener("click", () => { setBin(null); show(); });
  byId("reset").addEventListener("click", reset);
  window.addEventListener("resize", drawHistogram);
  window.addEventListener("hashchange", aim);
  setBin(null);
  show();
  if (location.hash.startsWith("#feature=")) aim();
  else if (listed.length && window.matchMedia("(min-width: 901px)").matches) { mark(listed[0]); draw(listed[0]); }
})();

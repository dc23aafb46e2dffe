// Attention: the heads of every layer, those that merged framed together, and one group of them over the words of a text.

const ATTENTION = DATA.attention || [];
const COLORS = Array.from({ length: 256 }, (_, i) => ramp(i / 255).match(/\d+/g).map(Number));
const looked = { text: 0, level: 1, layer: 0, head: 0, word: 0 };

const layerOf = (layer = looked.layer) => ATTENTION[looked.text].layers[layer];
const joinedTo = (layer, head) => (layer.joined[looked.level] || []).flatMap((joined, i) => (joined === head ? [i] : []));
const wordsOf = () => ATTENTION[looked.text].words;

// Heads of level 0 that a head of the chosen level was, and that head: title and map of each.
function mapsOf(layer, head) {
  const fine = joinedTo(layer, head).map((i) => [`head ${i}`, layer.maps[0][i]]);
  return [...fine, [`level ${looked.level}, head ${head}`, layer.maps[looked.level][head]]];
}

// Heads of level 0 that no head of the chosen level stands for: left out there, or all of them where the layer is gone.
function alone(layer) {
  const here = layer.maps[looked.level] === undefined;
  return layer.maps[0].map((_, i) => i).filter((i) => here || layer.joined[looked.level][i] < 0);
}

const intoOf = (layer) => (layer.merged[looked.level] ? `: block merged into ${plain(layer.merged[looked.level], 40)}` : "");

function mapOf(packed) {
  const values = unpacked(packed), n = Math.round(Math.sqrt(values.length)), image = new ImageData(n, n);
  values.forEach((value, i) => image.data.set([...COLORS[value], 255], 4 * i));
  const canvas = el("canvas", { width: n, height: n });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

const captioned = ([title, packed]) => el("span", { className: "head" }, mapOf(packed), el("span", { textContent: title }));

function groupOf(layer, l, head) {
  const maps = mapsOf(layer, head), fine = joinedTo(layer, head), chosen = l === looked.layer && head === looked.head;
  const button = el("button", { type: "button", className: "group", onclick: () => choose({ layer: l, head }) }, ...maps.slice(0, -1).map(captioned), captioned([`→ ${head}`, maps.at(-1)[1]]));
  button.style.borderColor = OKABE_ITO[head % OKABE_ITO.length];
  button.setAttribute("aria-pressed", String(chosen));
  button.setAttribute("aria-label", `Layer ${l}, head ${head} of level ${looked.level}, was ${fine.length === 1 ? "head" : "heads"} ${fine.join(", ")}`);
  return button;
}

function overview() {
  const rows = ATTENTION[looked.text].layers.map((layer, l) => {
    const groups = (layer.maps[looked.level] || []).map((_, head) => groupOf(layer, l, head));
    const rest = alone(layer).map((i) => captioned([layer.merged[looked.level] ? `head ${i}` : `head ${i}, left out`, layer.maps[0][i]]));
    return el("section", {}, el("h3", { textContent: `Layer ${l} · ${plain(layer.axis, 40)}${intoOf(layer)}`, title: layer.axis.slice(0, 300) }), el("div", { className: "groups" }, ...groups, ...rest));
  });
  byId("heads-all").replaceChildren(...rows);
}

// The share of attention that stands at a place of the layer's scale, in percent; its beginning stands for less, too.
const percent = (layer, place) => `${place ? "" : "≤ "}${(100 * layer.even * 2 ** (layer.octaves * (2 * place - 1))).toFixed(1)} %`;

// A map with its words, on the left what attends and below what is attended to.
function worded([title, packed], cell) {
  const side = (className) => el("span", { className }, ...wordsOf().map((word) => el("span", { textContent: plain(word, 14) })));
  const figure = el("figure", { className: "worded" }, el("figcaption", { textContent: title }), side("left"), mapOf(packed), side("below"));
  figure.style.setProperty("--cell", `${cell}px`);
  return figure;
}

// The words, shaded by the share that the chosen one gives them.
function shaded([title, packed]) {
  const n = wordsOf().length, values = unpacked(packed);
  const words = wordsOf().map((word, i) => {
    const place = values[looked.word * n + i] / 255, share = el("span", { textContent: plain(word, 40), title: percent(layerOf(), place) });
    share.style.backgroundColor = `color-mix(in srgb, var(--accent) ${Math.round(70 * place)}%, transparent)`;
    return share;
  });
  return el("p", { className: "shaded" }, el("b", { textContent: title }), ...words.flatMap((word) => [word, " "]));
}

function detail() {
  const layer = layerOf(), panel = byId("heads-one");
  if (!layer.maps[looked.level]) {
    panel.replaceChildren(el("p", { className: "hint", textContent: `Level ${looked.level} has no layer ${looked.layer}${intoOf(layer)}.` }));
    return;
  }
  const maps = mapsOf(layer, looked.head), cell = Math.min(22, Math.max(10, Math.round(260 / wordsOf().length)));
  const asked = wordsOf().map((word, i) => {
    const button = el("button", { type: "button", textContent: plain(word, 40), onclick: () => choose({ word: i }) });
    button.setAttribute("aria-pressed", String(i === looked.word));
    return button;
  });
  panel.replaceChildren(
    el("h2", { textContent: `Layer ${looked.layer}, head ${looked.head} of level ${looked.level}` }),
    el("h3", { textContent: "What one word attends to" }), el("div", { className: "asked" }, ...asked), ...maps.map(shaded),
    el("h3", { textContent: "What every word attends to" }),
    el("p", { className: "hint", textContent: `Each row is what the word on its left attends to; even attention is ${percent(layer, 0.5)}, in the middle of the colours, and the brightest place ${percent(layer, 1)}.` }),
    el("div", { className: "maps" }, ...maps.map((map) => worded(map, cell))));
}

function choose(changes) {
  Object.assign(looked, changes);
  looked.word = Math.min(looked.word, wordsOf().length - 1);
  if (!(looked.head < (layerOf().maps[looked.level] || []).length)) looked.head = 0;
  const focused = document.activeElement?.getAttribute("aria-label") || document.activeElement?.textContent;
  overview();
  detail();
  const again = [...byId("heads").querySelectorAll("button")].filter((b) => (b.getAttribute("aria-label") || b.textContent) === focused);
  again[changes.word !== undefined ? again.findIndex((b) => b.getAttribute("aria-pressed") === "true") : 0]?.focus({ preventScroll: true });
  say(`Layer ${looked.layer}, head ${looked.head} of level ${looked.level}, word ${wordsOf()[looked.word]}.`);
}

function attending(on) {
  document.body.classList.toggle("attending", on);
  byId("view").setAttribute("aria-pressed", String(on));
  for (const [id, hidden] of [["heads", !on], ["stage", on], ["foot", on], ["collapse", on], ["fit", on]]) byId(id).hidden = hidden;
  if (on) choose({});
}

function options(id, texts, change) {
  byId(id).append(...texts.map(([value, textContent]) => el("option", { value, textContent })));
  byId(id).addEventListener("change", (event) => choose(change(Number(event.target.value))));
}

function showAttention() {
  if (!ATTENTION.length) return;
  byId("view").hidden = false;
  byId("view").addEventListener("click", () => attending(byId("heads").hidden));
  options("heads-text", ATTENTION.map((text, i) => [i, plain(text.words.slice(0, 12).join(" "), 70)]), (text) => ({ text, word: 0 }));
  options("heads-level", DATA.levels.slice(1).map((_, i) => [i + 1, `level ${i + 1}`]), (level) => ({ level }));
}

// Attention: the heads of every layer, with merged heads in one frame, and one group of heads over the words of a text.

const ATTENTION = DATA.attention || [];
const COLORS = Array.from({ length: 256 }, (_, i) => ramp(i / 255).match(/\d+/g).map(Number));
const selection = { text: 0, level: 1, layer: 0, head: 0, word: 0 };

const layerOf = (layer = selection.layer) => ATTENTION[selection.text].layers[layer];
const joinedTo = (layer, head) => (layer.joined[selection.level] || []).flatMap((joined, i) => (joined === head ? [i] : []));
const wordsOf = () => ATTENTION[selection.text].words;

// Title and map of each fine head of a group, then of the merged head on the selected level.
function listMaps(layer, head) {
  const fine = joinedTo(layer, head).map((i) => [`head ${i}`, layer.maps[0][i]]);
  return [...fine, [`level ${selection.level}, head ${head}`, layer.maps[selection.level][head]]];
}

// Heads of level 0 without a head on the selected level: those left out, or all if that level lacks the layer.
function listUnmatched(layer) {
  const here = layer.maps[selection.level] === undefined;
  return layer.maps[0].map((_, i) => i).filter((i) => here || layer.joined[selection.level][i] < 0);
}

const describeMerge = (layer) => (layer.merged[selection.level] ? `: block merged into ${shorten(layer.merged[selection.level], 40)}` : "");

function drawMap(packed) {
  const values = unpack(packed), n = Math.round(Math.sqrt(values.length)), image = new ImageData(n, n);
  values.forEach((value, i) => image.data.set([...COLORS[value], 255], 4 * i));
  const canvas = el("canvas", { width: n, height: n });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

const captionMap = ([title, packed]) => el("span", { className: "head" }, drawMap(packed), el("span", { textContent: title }));

function buildGroup(layer, l, head) {
  const maps = listMaps(layer, head), fine = joinedTo(layer, head), chosen = l === selection.layer && head === selection.head;
  const button = el("button", { type: "button", className: "group", onclick: () => choose({ layer: l, head }) }, ...maps.slice(0, -1).map(captionMap), captionMap([`→ ${head}`, maps.at(-1)[1]]));
  button.style.borderColor = OKABE_ITO[head % OKABE_ITO.length];
  button.setAttribute("aria-pressed", String(chosen));
  button.setAttribute("aria-label", `Layer ${l}, head ${head} of level ${selection.level}, was ${fine.length === 1 ? "head" : "heads"} ${fine.join(", ")}`);
  return button;
}

function showOverview() {
  const rows = ATTENTION[selection.text].layers.map((layer, l) => {
    const groups = (layer.maps[selection.level] || []).map((_, head) => buildGroup(layer, l, head));
    const rest = listUnmatched(layer).map((i) => captionMap([layer.merged[selection.level] ? `head ${i}` : `head ${i}, left out`, layer.maps[0][i]]));
    return el("section", {}, el("h3", { textContent: `Layer ${l} · ${shorten(layer.axis, 40)}${describeMerge(layer)}`, title: layer.axis.slice(0, 300) }), el("div", { className: "groups" }, ...groups, ...rest));
  });
  byId("heads-all").replaceChildren(...rows);
}

// The share of attention at a position of the scale of a layer, in percent. Position 0 also stands for smaller shares.
const formatPercent = (layer, place) => `${place ? "" : "≤ "}${(100 * layer.even * 2 ** (layer.octaves * (2 * place - 1))).toFixed(1)} %`;

// A map with its words: attending words on the left, attended words below.
function drawWordMap([title, packed], cell) {
  const side = (className) => el("span", { className }, ...wordsOf().map((word) => el("span", { textContent: shorten(word, 14) })));
  const figure = el("figure", { className: "worded" }, el("figcaption", { textContent: title }), side("left"), drawMap(packed), side("below"));
  figure.style.setProperty("--cell", `${cell}px`);
  return figure;
}

// The words, shaded by their share of the attention of the selected word.
function shadeWords([title, packed]) {
  const n = wordsOf().length, values = unpack(packed);
  const words = wordsOf().map((word, i) => {
    const place = values[selection.word * n + i] / 255, share = el("span", { textContent: shorten(word, 40), title: formatPercent(layerOf(), place) });
    share.style.backgroundColor = `color-mix(in srgb, var(--accent) ${Math.round(70 * place)}%, transparent)`;
    return share;
  });
  return el("p", { className: "shaded" }, el("b", { textContent: title }), ...words.flatMap((word) => [word, " "]));
}

function showDetail() {
  const layer = layerOf(), panel = byId("heads-one");
  if (!layer.maps[selection.level]) {
    panel.replaceChildren(el("p", { className: "hint", textContent: `Level ${selection.level} has no layer ${selection.layer}${describeMerge(layer)}.` }));
    return;
  }
  const maps = listMaps(layer, selection.head), cell = Math.min(22, Math.max(10, Math.round(260 / wordsOf().length)));
  const asked = wordsOf().map((word, i) => {
    const button = el("button", { type: "button", textContent: shorten(word, 40), onclick: () => choose({ word: i }) });
    button.setAttribute("aria-pressed", String(i === selection.word));
    return button;
  });
  panel.replaceChildren(
    el("h2", { textContent: `Layer ${selection.layer}, head ${selection.head} of level ${selection.level}` }),
    el("h3", { textContent: "Attention of one word" }), el("div", { className: "asked" }, ...asked), ...maps.map(shadeWords),
    el("h3", { textContent: "Attention of every word" }),
    el("p", { className: "hint", textContent: `Each row shows the attention of the word on its left. Uniform attention is ${formatPercent(layer, 0.5)}, in the middle of the colours. The brightest entry is ${formatPercent(layer, 1)}.` }),
    el("div", { className: "maps" }, ...maps.map((map) => drawWordMap(map, cell))));
}

function choose(changes) {
  Object.assign(selection, changes);
  selection.word = Math.min(selection.word, wordsOf().length - 1);
  if (!(selection.head < (layerOf().maps[selection.level] || []).length)) selection.head = 0;
  const focused = document.activeElement?.getAttribute("aria-label") || document.activeElement?.textContent;
  showOverview();
  showDetail();
  const again = [...byId("heads").querySelectorAll("button")].filter((b) => (b.getAttribute("aria-label") || b.textContent) === focused);
  again[changes.word !== undefined ? again.findIndex((b) => b.getAttribute("aria-pressed") === "true") : 0]?.focus({ preventScroll: true });
  say(`Layer ${selection.layer}, head ${selection.head} of level ${selection.level}, word ${wordsOf()[selection.word]}.`);
}

function toggleAttention(on) {
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
  byId("view").addEventListener("click", () => toggleAttention(byId("heads").hidden));
  options("heads-text", ATTENTION.map((text, i) => [i, shorten(text.words.slice(0, 12).join(" "), 70)]), (text) => ({ text, word: 0 }));
  options("heads-level", DATA.levels.slice(1).map((_, i) => [i + 1, `level ${i + 1}`]), (level) => ({ level }));
}

// Keys, pointer, search, threshold, colours, theme and the first view.

let current = null;
const hint = byId("selected").firstElementChild;

function clearFocus() {
  if (current) cy.getElementById(current).removeClass("focus");
  current = null;
  unmarkKin();
  byId("selected").replaceChildren(hint);
}

function focusOn(node, quiet = false) {
  if (!node || node.empty()) return;
  if (current) cy.getElementById(current).removeClass("focus");
  current = node.id();
  node.addClass("focus");
  markKin(node);
  showSelected(node);
  reveal(current);
  if (!quiet) say(describe(node) + (node.data("type") === "axis" || isMerged(node.data("level"), node.data("axis")) ? " Enter opens or closes." : ""));
}

function goTo(panel, axis, unit = null) {
  if (unit !== null) openAxis(panel, axis, unit);
  if (cy.zoom() < READABLE) cy.zoom(0.95);
  const id = unit === null ? axisId(panel, axis) : unitId(panel, panel, axis, unit);
  focusOn(cy.getElementById(id));
  byId("graph").focus({ preventScroll: true });
}

// Open or close a node. A key also moves the focus into an opened node.
function activate(node, stepsIn = false) {
  const { id, panel, axis, open } = node.data(), toggled = toggle(node);
  const now = stage.nodes.has(id) ? id : axisId(panel, axis), { first } = stage.nodes.get(now);
  if (stepsIn && !open && first) { reveal(now); return focusOn(cy.getElementById(first)); }
  focusOn(cy.getElementById(now), true);
  if (toggled) say(`${describe(cy.getElementById(now))} ${open ? "Closed." : "Opened."}`);
}

cy.on("tap", "node", (event) => activate(event.target));

const AHEAD = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// The nearest node in a direction, among the nodes of the same box.
function findAhead(node, [x, y]) {
  const from = stage.at.get(node.id()), { box } = stage.nodes.get(node.id());
  let best = null, least = Infinity;
  stage.nodes.forEach((other, id) => {
    if (other.box !== box || id === node.id() || other.type === "head") return;
    const at = stage.at.get(id), along = (at.x - from.x) * x + (at.y - from.y) * y;
    const across = Math.abs((at.x - from.x) * y) + Math.abs((at.y - from.y) * x);
    const away = along - (x ? at.w : at.h) / 2 + 2 * across; // distance to its near side
    if (along > 1 && away < least) { least = away; best = id; }
  });
  return best && cy.getElementById(best);
}

function onKey(event) {
  const node = current ? cy.getElementById(current) : cy.collection();
  if (event.key === "+" || event.key === "=") cy.zoom({ level: cy.zoom() * 1.25, renderedPosition: { x: cy.width() / 2, y: cy.height() / 2 } });
  else if (event.key === "-") cy.zoom({ level: cy.zoom() / 1.25, renderedPosition: { x: cy.width() / 2, y: cy.height() / 2 } });
  else if (event.key === "f") fitView();
  else if (event.key === "/") byId("search").focus();
  else if (AHEAD[event.key] && node.nonempty()) focusOn(findAhead(node, AHEAD[event.key]));
  else if (AHEAD[event.key]) focusOn(cy.getElementById(axisId(0, 0)));
  else if ((event.key === "Enter" || event.key === " ") && node.nonempty()) activate(node, true);
  else if (event.key === "Escape" && node.nonempty()) focusOn(cy.getElementById(stage.nodes.get(current).box || ""));
  else return;
  event.preventDefault();
}

// Axes with the text in their names, exact matches first.
function findAxes(text) {
  const query = text.trim().toLowerCase(), match = query.match(/^(.*)\[(\d+)\]?$/);
  const name = match ? match[1] : query, unit = match ? Number(match[2]) : null;
  const hits = DATA.axes.map((axis, a) => ({ a, at: axis.name.toLowerCase().indexOf(name) })).filter((h) => h.at >= 0);
  hits.sort((x, y) => (DATA.axes[y.a].name.toLowerCase() === name) - (DATA.axes[x.a].name.toLowerCase() === name));
  return hits.map(({ a }) => ({ a, unit })).filter((h) => h.unit === null || h.unit < DATA.axes[h.a].sizes[0]);
}

function search() {
  const text = byId("search").value, hits = text.trim() ? findAxes(text) : [];
  const button = (h) => el("button", { type: "button", className: "link", textContent: shorten(DATA.axes[h.a].name, 30) + (h.unit === null ? "" : `[${h.unit}]`), onclick: () => goTo(0, h.a, h.unit) });
  const more = hits.length > 12 ? [el("li", { textContent: `and ${hits.length - 12} more` })] : [];
  byId("results").replaceChildren(...hits.slice(0, 12).map((h) => el("li", {}, button(h))), ...more);
  matching = text.trim() ? new Set(hits.map((h) => h.a)) : null;
  cy.batch(() => cy.elements().forEach((e) => { if (isDim(e.data()) !== e.hasClass("dim")) e.toggleClass("dim"); }));
  if (text.trim()) say(hits.length === 1 ? "1 axis found." : `${hits.length} axes found.`);
  return hits;
}

cy.on("viewport", showBeyond);
byId("beyond").addEventListener("click", () => cy.panBy({ x: 0, y: -0.8 * cy.height() }));

const isDark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

function applyTheme() {
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  cy.style(buildStyle());
  recolor();
}

byId("graph").addEventListener("keydown", onKey);
byId("search").addEventListener("input", search);
byId("search").addEventListener("keydown", (event) => {
  const hits = event.key === "Enter" ? search() : [];
  if (hits.length) goTo(0, hits[0].a, hits[0].unit);
});
byId("color").addEventListener("change", (event) => { colorBy = event.target.value; recolor(); showLegend(); });
byId("threshold").addEventListener("input", (event) => {
  threshold = event.target.value / 100;
  byId("shown").textContent = `${event.target.value} %`;
  hideLightEdges();
});
byId("fit").addEventListener("click", () => fitView());
byId("collapse").addEventListener("click", () => { openAxes.clear(); openUnits.clear(); updateStage(); clearFocus(); fitView(true); });
byId("theme").addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; applyTheme(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);

// A resized canvas is empty until the next drawing.
new ResizeObserver(() => { cy.resize(); if (!current) fitView(true); drawNow(); }).observe(byId("graph"));

byId("name").textContent = shorten(DATA.name, 60);
document.title = `${shorten(DATA.name, 60)} · hierarchy`;
byId("summary").textContent = `${DATA.levels.length} levels · ${DATA.axes.length} axes · operator complexity ${DATA.complexity[0].toFixed(3)} · grid complexity ${DATA.complexity[1].toFixed(3)} · merged by ${shorten(DATA.options.coarsener || "?", 30)}`;
showTables();
showAttention();
showArchitecture();
showLegend();
if (DATA.levels[COARSEST].axes.length && DATA.axes.reduce((n, a) => n + a.sizes[COARSEST], 0) <= 200) DATA.axes.forEach((_, a) => openAxes.set(COARSEST + ":" + a, 0));
applyTheme();
updateStage();
cy.resize(); // the tables have taken their space
fitView(true);
drawNow();
if (ATTENTION.length && location.hash === "#attention") toggleAttention(true);
document.documentElement.dataset.ready = "yes";

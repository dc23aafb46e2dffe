// The cytoscape stage: styles, updates, opening and closing.

const OKABE_ITO = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"];
const CIVIDIS = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]];
const KINDS = ["neuron", "channel", "head"];
const READABLE = 0.65; // smallest zoom with readable labels
let colorBy = "axis";

const cssVar = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function ramp(t) {
  const at = Math.min(Math.max(t, 0), 1) * (CIVIDIS.length - 1), i = Math.min(Math.floor(at), CIVIDIS.length - 2);
  return `rgb(${CIVIDIS[i].map((c, k) => Math.round(c + (CIVIDIS[i + 1][k] - c) * (at - i))).join(",")})`;
}

// Black or white, by the larger contrast with a colour (WCAG 2.2, relative luminance).
const inks = new Map();
function inkOn(color) {
  if (!inks.has(color)) {
    const parts = color[0] === "#" ? color.match(/\w\w/g).map((x) => parseInt(x, 16)) : color.match(/\d+/g).map(Number);
    const [r, g, b] = parts.map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    inks.set(color, 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff");
  }
  return inks.get(color);
}

function colorOf({ type, level, axis, unit }) {
  const data = DATA.levels[level].axes[axis], one = type === "unit";
  if (colorBy === "kind") return OKABE_ITO[KINDS.indexOf(DATA.axes[axis].kind) % OKABE_ITO.length] || OKABE_ITO[5];
  if (colorBy === "level") return OKABE_ITO[level % OKABE_ITO.length];
  if (colorBy === "weight") return ramp((one ? weightOf(level, axis, unit) : data.meanWeight) / (data.largest || 1));
  if (colorBy === "affinity") {
    const alike = one ? likenessOf(level, axis, unit) : data.meanAffinity ?? DATA.levels[Math.max(level - 1, 0)].axes[axis].meanAffinity;
    return alike === null || alike === undefined ? cssVar("--none") : ramp(alike);
  }
  return OKABE_ITO[axis % OKABE_ITO.length];
}

function labelOf(node) {
  const { level, axis, open } = node.data();
  const size = formatCount(DATA.axes[axis].sizes[level], DATA.axes[axis].kind);
  return open ? `${shorten(DATA.axes[axis].name)} · ${size}` : `${shorten(DATA.axes[axis].name)}\n${size}`;
}

function buildStyle() {
  const ink = cssVar("--ink"), soft = cssVar("--soft"), surface = cssVar("--surface"), line = cssVar("--line");
  const accent = cssVar("--accent"), back = cssVar("--back"), box = cssVar("--box");
  const font = { "font-family": "system-ui, sans-serif", "text-wrap": "wrap", "text-valign": "center", "min-zoomed-font-size": 6 };
  return [
    { selector: "node", style: { shape: "round-rectangle", width: UNIT, height: UNIT, "z-index-compare": "manual", "z-index": "data(z)" } },
    { selector: "node[type='unit']", style: { "background-color": "data(color)" } },
    { selector: "node[type='unit'][label]", style: { label: "data(label)", color: "data(ink)", "font-size": 8, ...font } },
    { selector: "node[type='unit'][open=1]", style: { "background-color": box, "background-opacity": 1, "border-width": 1.5, "border-color": "data(color)", width: "data(w)", height: "data(h)", label: "", "corner-radius": 6 } },
    { selector: "node[type='axis']", style: { label: labelOf, ...font, width: CARD.w, height: CARD.h, "corner-radius": 7, color: ink, "font-size": 12, "line-height": 1.35, "border-width": 1, "border-color": line, "background-fill": "linear-gradient", "background-gradient-direction": "to-right", "background-gradient-stop-colors": (n) => `${n.data("color")} ${n.data("color")} ${surface} ${surface}`, "background-gradient-stop-positions": "0 4 4 100" } },
    { selector: "node[type='axis'][open=1]", style: { "background-fill": "solid", "background-opacity": 0, width: "data(w)", height: "data(h)", "text-valign": "top", "text-margin-y": -5, "text-background-color": back, "text-background-opacity": 0.9, "text-background-padding": 2, "border-width": 1.5, "border-color": "data(color)" } },
    { selector: "node[type='axis'][kept=1]", style: { "border-style": "dashed", color: soft } },
    { selector: "node[type='more'], node[type='note']", style: { width: "data(w)", label: "data(label)", ...font, "background-opacity": 0, color: accent, "font-size": 10 } },
    { selector: "node[type='head']", style: { label: "data(label)", ...font, "background-opacity": 0, width: 10, height: 10, color: ink, "font-size": 13, "line-height": 1.5, "font-weight": 600, events: "no" } },
    { selector: "edge", style: { width: "data(width)", "line-color": soft, opacity: "data(fade)", "curve-style": "straight", "z-compound-depth": "bottom", events: "no" } },
    { selector: "edge[kind='link']", style: { "curve-style": "unbundled-bezier", "control-point-distances": bendEdge, "control-point-weights": 0.5, "target-arrow-shape": "triangle", "target-arrow-color": soft, "arrow-scale": 0.7, "source-endpoint": "outside-to-node-or-label" } },
    { selector: "edge[kind='transfer']", style: { "line-style": "dotted" } },
    { selector: "edge[kind='affinity']", style: { "line-color": accent, "curve-style": "haystack", "haystack-radius": 0, "z-compound-depth": "auto", "z-index-compare": "manual", "z-index": "data(z)" } },
    { selector: "edge[kind='connection']", style: { "curve-style": "haystack", "haystack-radius": 0, "line-color": ink } },
    { selector: ".light", style: { display: "none" } },
    { selector: ".dim", style: { opacity: 0.18 } },
    { selector: ".kin", style: { "border-width": 3, "border-color": ink } },
    { selector: ".focus", style: { "border-width": 2, "border-color": back, "border-style": "solid", "outline-width": 3, "outline-color": accent, "outline-offset": 0 } },
  ];
}

// Edges over several rows are curved, longer ones more.
function bendEdge(e) {
  const [, , a, b] = e.id().split(":").map(Number);
  return Math.abs(b - a) <= 1 ? 0 : Math.sign(b - a) * Math.min(30 + 14 * Math.abs(b - a), 130);
}

const cy = cytoscape({
  container: document.getElementById("graph"), style: [], minZoom: 0.03, maxZoom: 4, autoungrabify: true, autounselectify: true,
  boxSelectionEnabled: false, textureOnViewport: false, hideEdgesOnViewport: false, pixelRatio: "auto",
});

let stage = { nodes: new Map(), edges: new Map(), at: new Map() };
let threshold = 0;
let matching = null; // axes that match the search, null without a search
const isDim = ({ axis, source, target }) => matching !== null && (source === undefined ? axis !== undefined && !matching.has(axis) : [source, target].every((id) => isDim(stage.nodes.get(id))));
const isLight = ({ kind, weight }) => kind !== "transfer" && weight < threshold;

// Update the stage to the open axes and aggregates. Unchanged elements are not touched and keep their styles.
function updateStage() {
  const before = stage, fresh = [];
  stage = buildStage();
  const removed = [...before.edges.keys(), ...before.nodes.keys()].filter((id) => !stage.nodes.has(id) && !stage.edges.has(id));
  cy.batch(() => {
    cy.collection(removed.map((id) => cy.getElementById(id)[0])).remove();
    for (const [id, data] of stage.nodes) {
      if (before.nodes.has(id)) { updateNode(id, before); continue; }
      const { x, y } = stage.at.get(id);
      fresh.push({ group: "nodes", data: { ...data, ...colorNode(data) }, position: { x, y }, classes: isDim(data) ? "dim" : "" });
    }
    for (const [id, data] of stage.edges) if (!before.edges.has(id)) fresh.push({ group: "edges", data, classes: `${isLight(data) ? "light" : ""} ${isDim(data) ? "dim" : ""}` });
    cy.add(fresh);
  });
  showBeyond();
}

function colorNode(data) {
  if (data.axis === undefined) return {};
  const color = colorOf(data);
  return { color, ink: inkOn(color), kept: DATA.axes[data.axis].kept ? 1 : 0 };
}

function updateNode(id, before) {
  const data = stage.nodes.get(id), old = before.nodes.get(id), { x, y } = stage.at.get(id), oldPosition = before.at.get(id);
  const differs = ["open", "label", "w", "h"].filter((key) => data[key] !== old[key]);
  if (differs.length) cy.getElementById(id).data(Object.fromEntries(differs.map((key) => [key, data[key]])));
  if (x !== oldPosition.x || y !== oldPosition.y) cy.getElementById(id).position({ x, y });
}

function recolor() {
  cy.batch(() => cy.nodes().forEach((n) => { n.data(colorNode(n.data())); }));
}

// Hide edges below the threshold.
function hideLightEdges() {
  cy.batch(() => cy.edges().forEach((e) => { if (isLight(e.data()) !== e.hasClass("light")) e.toggleClass("light"); }));
}

function openAxis(panel, axis, start = 0) {
  openAxes.set(panel + ":" + axis, Math.floor(start / PAGE) * PAGE);
  updateStage();
}

// Open or close a node. Return true if anything changed.
function toggle(node) {
  const { type, panel, level, axis, unit, id, open } = node.data();
  const key = panel + ":" + axis;
  if (type === "axis") open ? openAxes.delete(key) : openAxes.set(key, 0);
  else if (type === "more") openAxes.set(key, (openAxes.get(key) + PAGE) % (Math.ceil(DATA.axes[axis].sizes[panel] / PAGE) * PAGE));
  else if (type === "unit" && isMerged(level, axis)) open ? openUnits.delete(id) : openUnits.add(id);
  else return false;
  updateStage();
  return true;
}

// Fit the view. The first view shows the upper part of the stage if the whole would be too small to read.
function fitView(first = false) {
  const box = cy.elements().boundingBox(), pad = 28;
  const wide = (cy.width() - 2 * pad) / box.w, all = Math.min(1.25, wide, (cy.height() - 2 * pad) / box.h);
  const zoom = first && all < READABLE ? Math.min(wide, 0.95) : all;
  const top = zoom * box.h > cy.height() - 2 * pad || zoom * box.h < 0.5 * cy.height();
  cy.viewport({ zoom, pan: { x: (cy.width() - zoom * (box.x1 + box.x2)) / 2, y: top ? pad - zoom * box.y1 : (cy.height() - zoom * (box.y1 + box.y2)) / 2 } });
}

// Draw without waiting for a frame, because a browser that takes a screenshot may never have one.
function drawNow() {
  const renderer = cy.renderer();
  renderer.flushRenderedStyleQueue();
  renderer.render();
}

// Pan the view by the least amount that shows a node.
function reveal(id) {
  const { x, y, w, h } = stage.at.get(id), pad = 40, zoom = cy.zoom(), pan = cy.pan();
  const past = (middle, size, shift, room) => {
    const low = (middle - size / 2) * zoom + shift, high = (middle + size / 2) * zoom + shift;
    return high - low > room - 2 * pad || low < pad ? pad - low : Math.min(0, room - pad - high);
  };
  const by = { x: past(x, w, pan.x, cy.width()), y: past(y, h, pan.y, cy.height()) };
  if (by.x || by.y) cy.panBy(by);
}

// Show how many axes lie below the view. The button scrolls there.
function showBeyond() {
  const bottom = (cy.height() - cy.pan().y) / cy.zoom();
  const below = DATA.axes.filter((_, a) => stage.at.get(axisId(0, a)).y > bottom).length;
  byId("beyond").hidden = !below;
  byId("beyond").textContent = `↓ ${below} of ${DATA.axes.length} axes below`;
}

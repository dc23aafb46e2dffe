// The stage: open axes and aggregates, and the nodes and edges that follow from them.

const PAGE = 400;   // units of an axis on one page
const MOST = 400;  // most connections to draw between the units of two axes
const NUMBERED = 100; // most units of a box that show their numbers
const openAxes = new Map();   // "level:axis" -> first unit shown
const openUnits = new Set();  // ids of open aggregates

const axisId = (panel, axis) => `x:${panel}:${axis}`;
const unitId = (panel, level, axis, unit) => `u:${panel}:${level}:${axis}:${unit}`;
const pageEnd = (start, n) => Math.min(n, start + PAGE);

function axisTree(panel, axis) {
  const start = openAxes.get(panel + ":" + axis), n = DATA.axes[axis].sizes[panel];
  const data = { id: axisId(panel, axis), type: "axis", panel, level: panel, axis };
  if (start === undefined) return { ...data, w: CARD.w, h: CARD.h };
  const children = [];
  for (let i = start; i < pageEnd(start, n); i++) children.push(unitTree(panel, panel, axis, i));
  if (n > PAGE) {
    const label = `${(start + 1).toLocaleString("en")}–${pageEnd(start, n).toLocaleString("en")} of ${n.toLocaleString("en")} ›`;
    children.push({ id: `m:${panel}:${axis}`, type: "more", panel, level: panel, axis, label, w: 170, h: UNIT });
  }
  return { ...data, children, title: true };
}

function unitTree(panel, level, axis, unit) {
  const id = unitId(panel, level, axis, unit);
  const data = { id, type: "unit", panel, level, axis, unit };
  if (!openUnits.has(id)) return data;
  const members = membersOf(level, axis, unit);
  const children = members.slice(0, PAGE).map((m) => unitTree(panel, level - 1, axis, m));
  if (members.length > PAGE) {
    const label = `and ${(members.length - PAGE).toLocaleString("en")} more`;
    children.push({ id: "n:" + id, type: "note", panel, level, axis, label, w: 110, h: UNIT });
  }
  return { ...data, children };
}

// Data of the nodes of a tree, boxes before their contents. `box` is the id of the box of a node and `z` its depth.
function nodesOf(tree, box, z, at, out) {
  const { children, title, ...data } = tree, { w, h } = at.get(tree.id);
  out.set(tree.id, { ...data, box, z, w, h, open: children ? 1 : 0, first: children && children[0].id });
  if (children && children.length <= NUMBERED) for (const child of children) if (child.type === "unit") child.label = String(child.unit);
  for (const child of children || []) nodesOf(child, tree.id, z + 2, at, out);
}

function headOf(level) {
  const data = DATA.levels[level];
  const label = `Level ${level}\n${data.units.toLocaleString("en")} units\n${data.parameters.toLocaleString("en")} parameters`;
  return { id: "h:" + level, type: "head", level, panel: level, z: 0, label };
}

// An edge with width and opacity. Heavy edges stand out.
function edge(id, source, target, kind, weight) {
  const [width, fade] = { link: [0.6 + 3 * weight, 0.15 + 0.6 * weight], transfer: [1.5, 0.7], affinity: [0.5 + 2 * weight, 0.8] }[kind]
    || [0.4 + 1.6 * weight ** 2, 0.05 + 0.6 * weight ** 2];
  return { id, source, target, kind, weight, width, fade };
}

// The heaviest connections between the visible units of two open axes.
function unitEdges(panel, connections, out) {
  const [a, b, , rows, columns, weights] = connections;
  const from = openAxes.get(panel + ":" + a), to = openAxes.get(panel + ":" + b);
  const i = unpack(rows), j = unpack(columns), w = unpack(weights), seen = [];
  for (let e = 0; e < i.length; e++) {
    if (i[e] >= from && i[e] < from + PAGE && j[e] >= to && j[e] < to + PAGE) seen.push(e);
  }
  seen.sort((x, y) => w[y] - w[x]);
  for (const e of seen.slice(0, MOST)) {
    const ends = [unitId(panel, panel, a, i[e]), unitId(panel, panel, b, j[e])];
    out.set(`c:${ends}`, edge(`c:${ends}`, ...ends, "connection", w[e] / 255));
  }
}

// Affinities in an open aggregate: edges from its most typical member to the others.
function mateEdges(id, z, out) {
  const [panel, level, axis, unit] = id.split(":").slice(1).map(Number);
  const members = membersOf(level, axis, unit).slice(0, PAGE);
  const alike = members.map((m) => affinityOf(level - 1, axis, m));
  const hub = members[alike.indexOf(Math.max(...alike))];
  members.forEach((m, k) => {
    const ends = [unitId(panel, level - 1, axis, hub), unitId(panel, level - 1, axis, m)];
    if (m !== hub) out.set(`a:${ends}`, { ...edge(`a:${ends}`, ...ends, "affinity", alike[k] || 0), z: z + 1 });
  });
}

function edgesOf(nodes) {
  const out = new Map();
  DATA.levels.forEach((level, panel) => {
    const most = Math.max(...level.links.map((l) => l[2]), 1e-30);
    const both = (a, b) => openAxes.has(panel + ":" + a) && openAxes.has(panel + ":" + b);
    for (const [a, b, weight] of level.links) {
      const id = `l:${panel}:${a}:${b}`;
      if (!both(a, b) || !level.edges.length) out.set(id, edge(id, axisId(panel, a), axisId(panel, b), "link", weight / most));
    }
    for (const connections of level.edges) if (both(connections[0], connections[1])) unitEdges(panel, connections, out);
    DATA.axes.forEach((_, a) => {
      if (isMerged(panel, a)) out.set(`t:${panel}:${a}`, edge(`t:${panel}:${a}`, axisId(panel - 1, a), axisId(panel, a), "transfer", 1));
    });
  });
  for (const id of openUnits) if (nodes.has(id)) mateEdges(id, nodes.get(id).z, out);
  return out;
}

// All nodes and edges of the current stage, with their positions.
function buildStage() {
  const trees = DATA.levels.map((_, panel) => DATA.axes.map((_, axis) => axisTree(panel, axis)));
  const nodes = new Map(), at = computePositions(trees);
  DATA.levels.forEach((_, level) => nodes.set("h:" + level, headOf(level)));
  for (const column of trees) for (const tree of column) nodesOf(tree, undefined, 0, at, nodes);
  return { nodes, edges: edgesOf(nodes), at };
}

// The panels: selection, tables, architecture and legend. Names are set as text, never as markup.

function el(tag, properties = {}, ...children) {
  const out = Object.assign(document.createElement(tag), properties);
  out.append(...children);
  return out;
}
const byId = (id) => document.getElementById(id);
const say = (text) => { byId("said").textContent = text; };

function describe(node) {
  const { type, level, axis, unit, open, label } = node.data();
  if (type === "more") return `units ${label} Enter shows the next.`;
  if (type === "note") return label;
  const name = shorten(DATA.axes[axis].name, 60);
  if (type === "axis") {
    const size = formatCount(DATA.axes[axis].sizes[level], DATA.axes[axis].kind);
    return `Axis ${name}, level ${level}, ${size}, ${open ? "open" : "closed"}.`;
  }
  const merged = isMerged(level, axis) ? `, ${membersOf(level, axis, unit).length} members, ${open ? "open" : "closed"}` : "";
  return `${name}[${unit}], level ${level}${merged}.`;
}

function buildFacts(rows) {
  const list = el("dl");
  for (const [term, value] of rows) if (value !== null && value !== undefined) list.append(el("dt", { textContent: term }), ...[value].flat().map((line) => el("dd", { textContent: line })));
  return list;
}

// The heaviest connections of a unit on its level, as text.
function listHeaviest(level, axis, unit) {
  const connections = [];
  for (const [a, b, largest, rows, columns, weights] of DATA.levels[level].edges) {
    if (a !== axis && b !== axis) continue;
    const ends = unpack(a === axis ? rows : columns), otherEnds = unpack(a === axis ? columns : rows), w = unpack(weights);
    for (let e = 0; e < ends.length; e++) {
      if (ends[e] === unit) connections.push([(w[e] / 255) * largest, `${a === axis ? "to" : "from"} ${shorten(DATA.axes[a === axis ? b : a].name)}[${otherEnds[e]}]`]);
    }
  }
  return connections.sort((x, y) => y[0] - x[0]).slice(0, 6).map(([w, text]) => `${formatNumber(w)} ${text}`);
}

function axisFacts(level, axis) {
  const data = DATA.axes[axis], averages = DATA.levels[level].axes[axis];
  return [
    ["level", level], ["kind", data.kind], ["units", data.sizes.map((n) => n.toLocaleString("en")).join(" → ")],
    ["kept", data.kept], ["mean affinity with its aggregate", averages.meanAffinity === undefined ? null : formatNumber(averages.meanAffinity)],
    ["mean weight", formatNumber(averages.meanWeight)], ["runs over", [...data.parameters.map((p) => shorten(p, 60)), ...(data.more ? [`and ${data.more} more`] : [])]],
  ];
}

function unitFacts(level, axis, unit) {
  const members = isMerged(level, axis) ? membersOf(level, axis, unit) : null, join = joinOf(level, axis, unit);
  const joined = level === COARSEST ? null : join === null ? "left out" : `unit ${join} of level ${level + 1}`;
  return [
    ["level", level], ["weight", formatNumber(weightOf(level, axis, unit))],
    ["affinity with its aggregate", affinityOf(level, axis, unit) === null ? null : formatNumber(affinityOf(level, axis, unit))],
    ["joins", joined], ["members", members && `${members.length}: ${members.slice(0, 12).join(", ")}${members.length > 12 ? ", …" : ""}`],
    ["connections", listHeaviest(level, axis, unit)],
  ];
}

function showSelected(node) {
  const panel = byId("selected"), { type, level, axis, unit, open } = node.data();
  if (type !== "axis" && type !== "unit") return;
  const name = shorten(DATA.axes[axis].name, 40), can = type === "axis" || isMerged(level, axis);
  const title = el("h2", { textContent: type === "axis" ? name : `${name}[${unit}]`, title: DATA.axes[axis].name.slice(0, 300) });
  const facts = buildFacts(type === "axis" ? axisFacts(level, axis) : unitFacts(level, axis, unit));
  const act = el("button", { type: "button", textContent: open ? "Close" : "Open", onclick: () => { toggle(node); focusOn(cy.getElementById(node.id())); } });
  panel.replaceChildren(title, facts, ...(can ? [act] : []));
}

// The aggregates and members of a unit, on all levels where they are shown.
let marked = [];
function unmarkKin() {
  for (const id of marked) cy.getElementById(id).removeClass("kin");
  marked = [];
}

function markKin(node) {
  unmarkKin();
  const { type, level, axis, unit } = node.data();
  if (type !== "unit") return;
  const kin = new Set([level + ":" + unit]);
  for (let l = level, u = unit; l < COARSEST && u !== null; l++) { u = joinOf(l, axis, u); if (u !== null) kin.add(l + 1 + ":" + u); }
  let below = [unit];
  for (let l = level; l > 0 && below.length < 2000; l--) { below = below.flatMap((u) => membersOf(l, axis, u)); below.forEach((u) => kin.add(l - 1 + ":" + u)); }
  stage.nodes.forEach((n, id) => { if (n.type === "unit" && n.axis === axis && id !== node.id() && kin.has(n.level + ":" + n.unit)) marked.push(id); });
  for (const id of marked) cy.getElementById(id).addClass("kin");
}

function row(cells, tag = "td") {
  return el("tr", {}, ...cells.map((c, i) => (c instanceof Node ? el(tag, {}, c) : el(i === 0 && tag === "td" ? "th" : tag, { textContent: c, scope: tag === "th" ? "col" : "row" }))));
}

function showTables() {
  byId("levels").append(
    el("thead", {}, row(["level", "units", "parameters", "FLOPs", "seconds"], "th")),
    el("tbody", {}, ...DATA.levels.map((l, i) => row([String(i), l.units.toLocaleString("en"), l.parameters.toLocaleString("en"), formatNumber(l.flops), l.seconds === null ? "" : l.seconds.toFixed(2)]))));
  const head = ["axis", "kind", ...DATA.levels.map((_, i) => "level " + i), "mean affinity", "state"];
  byId("axes").append(el("thead", {}, row(head, "th")), el("tbody", {}, ...DATA.axes.map((axis, a) => {
    const button = el("button", { type: "button", className: "link", textContent: shorten(axis.name, 60), title: axis.name.slice(0, 300), onclick: () => goTo(COARSEST, a) });
    const state = axis.kept ? "kept: " + axis.kept : new Set(axis.sizes).size > 1 ? "merged" : "not merged";
    return row([button, axis.kind, ...axis.sizes.map((n) => n.toLocaleString("en")), formatNumber(DATA.levels[0].axes[a].meanAffinity), shorten(state, 200)]);
  })));
  const kept = DATA.kept.map(([why, share]) => el("li", { textContent: `${(100 * share).toFixed(1)} % kept: ${shorten(why, 200)}` }));
  byId("kept").append(el("p", { textContent: `${(100 * DATA.merged).toFixed(1)} % of the parameters have a merged dimension.` }), el("ul", {}, ...kept));
}

// Axes by module: a tree of details elements with a button for each axis.
function showArchitecture() {
  const root = { parts: new Map() };
  DATA.axes.forEach((axis, a) => {
    const words = axis.name.split("."), path = words.slice(0, 8);
    if (words.length > 8) path.push(words.slice(8).join("."));
    let at = root;
    for (const word of path) { if (!at.parts.has(word)) at.parts.set(word, { parts: new Map() }); at = at.parts.get(word); }
    at.axis = a;
  });
  byId("architecture").append(branch(root, DATA.axes.length <= 24));
}

const unitsIn = (part) => (part.axis === undefined ? 0 : DATA.axes[part.axis].sizes[0]) + [...part.parts.values()].reduce((n, p) => n + unitsIn(p), 0);
const countIn = (part) => el("span", { className: "count", textContent: unitsIn(part).toLocaleString("en") });

function branch(part, open) {
  const axisLeaf = part.axis === undefined ? [] : [leaf("itself", { axis: part.axis, parts: new Map() })];
  return el("ul", { className: "tree" }, ...axisLeaf, ...[...part.parts].map(([word, inner]) => twig(word, inner, open)));
}

// A module with a single part shares its line.
function twig(word, part, open) {
  if (!part.parts.size) return leaf(word, part);
  const [[next, inner]] = part.parts;
  if (part.axis === undefined && part.parts.size === 1) return twig(`${word}.${next}`, inner, open);
  return el("li", {}, el("details", { open }, el("summary", { textContent: shorten(word, 28) }, countIn(part)), branch(part, open)));
}

function leaf(word, part) {
  const { name } = DATA.axes[part.axis], go = () => goTo(0, part.axis);
  return el("li", {}, el("button", { type: "button", className: "link", textContent: shorten(word, 28), title: name.slice(0, 300), onclick: go }), countIn(part));
}

function showLegend() {
  const swatch = (color, text) => { const s = el("i", { className: "swatch" }); s.style.background = color; return el("span", { className: "key" }, s, text); };
  if (colorBy === "kind") byId("legend").replaceChildren(...KINDS.filter((k) => DATA.axes.some((a) => a.kind === k)).map((k) => swatch(OKABE_ITO[KINDS.indexOf(k)], k)));
  else if (colorBy === "level") byId("legend").replaceChildren(...DATA.levels.map((_, i) => swatch(OKABE_ITO[i % 6], "level " + i)));
  else if (colorBy === "axis") byId("legend").replaceChildren(el("span", { className: "key", textContent: "neighbouring axes differ" }));
  else {
    const bar = el("i", { className: "ramp" });
    bar.style.background = `linear-gradient(to right, ${[0, 0.2, 0.4, 0.6, 0.8, 1].map(ramp).join(",")})`;
    const ends = colorBy === "affinity" ? ["opposite 0", "1 alike"] : ["0", "largest of its axis"];
    byId("legend").replaceChildren(el("span", { textContent: ends[0] }), bar, el("span", { textContent: ends[1] }));
  }
}

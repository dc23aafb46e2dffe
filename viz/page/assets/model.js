// The data of the page: axes, levels, and units that are unpacked on demand.

const DATA = JSON.parse(document.getElementById("hierarchy").textContent);
const COARSEST = DATA.levels.length - 1;
const WIDTHS = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array };
const unpackedArrays = new Map();

function unpack(packed) {
  if (!unpackedArrays.has(packed)) unpackedArrays.set(packed, new WIDTHS[packed[0]](decodeBase64(packed[1]).buffer));
  return unpackedArrays.get(packed);
}

function decodeBase64(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const text = atob(base64), bytes = new Uint8Array(text.length);  // browsers before 2025
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// True if the units of a level are aggregates of the next finer level.
function isMerged(level, axis) {
  return level > 0 && DATA.levels[level - 1].axes[axis].joins !== undefined;
}

const inverses = new Map();

// The members of all aggregates in one array, with the start of each: a counting sort.
function invertJoins(level, axis) {
  const key = level + ":" + axis;
  if (!inverses.has(key)) {
    const joins = unpack(DATA.levels[level - 1].axes[axis].joins);
    const begins = new Uint32Array(DATA.axes[axis].sizes[level] + 2);
    for (const join of joins) begins[join + 1]++;
    for (let i = 1; i < begins.length; i++) begins[i] += begins[i - 1];
    const next = begins.slice();
    const members = new Uint32Array(joins.length);
    for (let unit = 0; unit < joins.length; unit++) members[next[joins[unit]]++] = unit;
    inverses.set(key, { begins, members });
  }
  return inverses.get(key);
}

// Units of the next finer level in an aggregate.
function membersOf(level, axis, unit) {
  if (!isMerged(level, axis)) return [unit];
  const { begins, members } = invertJoins(level, axis);
  return Array.from(members.subarray(begins[unit + 1], begins[unit + 2]));
}

// The unit of the next coarser level that a unit joins, or null if it is left out.
function joinOf(level, axis, unit) {
  const joins = DATA.levels[level].axes[axis].joins;
  if (joins === undefined) return level < COARSEST ? unit : null;
  const join = unpack(joins)[unit];
  return join ? join - 1 : null;
}

function weightOf(level, axis, unit) {
  const data = DATA.levels[level].axes[axis];
  return (unpack(data.weight)[unit] / 255) * data.largest;
}

function affinityOf(level, axis, unit) {
  const data = DATA.levels[level].axes[axis].affinity;
  return data === undefined ? null : unpack(data)[unit] / 255;
}

// Similarity of a unit to its aggregate, or on the coarsest level the mean similarity of its members.
function likenessOf(level, axis, unit) {
  const affinity = affinityOf(level, axis, unit);
  if (affinity !== null || !isMerged(level, axis)) return affinity;
  const members = membersOf(level, axis, unit);
  return members.reduce((sum, m) => sum + affinityOf(level - 1, axis, m), 0) / members.length;
}

// A name as one short line. Long names lose their beginning, because the end is more specific.
function shorten(name, length = 24) {
  const line = name.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "·");
  return line.length > length ? "…" + line.slice(1 - length) : line || "(no name)";
}

const formatCount = (n, kind) => `${n.toLocaleString("en")} ${kind}${n === 1 ? "" : "s"}`;
const formatNumber = (x) => (x === null || x === undefined ? "–" : x === 0 ? "0" : Number(x).toPrecision(3));

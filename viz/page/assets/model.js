// The hierarchy as the page reads it: axes, levels, and units that are unpacked when somebody looks.

const DATA = JSON.parse(document.getElementById("hierarchy").textContent);
const COARSEST = DATA.levels.length - 1;
const WIDTHS = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array };
const unpackedArrays = new Map();

function unpacked(packed) {
  if (!unpackedArrays.has(packed)) unpackedArrays.set(packed, new WIDTHS[packed[0]](bytesOf(packed[1]).buffer));
  return unpackedArrays.get(packed);
}

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const text = atob(base64), bytes = new Uint8Array(text.length);  // browsers before 2025
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// Whether units of a level are aggregates of the next finer one.
function isMerged(level, axis) {
  return level > 0 && DATA.levels[level - 1].axes[axis].joins !== undefined;
}

const inverses = new Map();

// The members of every aggregate as one array and where each begins: a counting sort.
function inverse(level, axis) {
  const key = level + ":" + axis;
  if (!inverses.has(key)) {
    const joins = unpacked(DATA.levels[level - 1].axes[axis].joins);
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

// Units of the next finer level that a unit stands for.
function membersOf(level, axis, unit) {
  if (!isMerged(level, axis)) return [unit];
  const { begins, members } = inverse(level, axis);
  return Array.from(members.subarray(begins[unit + 1], begins[unit + 2]));
}

// The unit of the next coarser level that a unit joins; null where it is left out.
function joinOf(level, axis, unit) {
  const joins = DATA.levels[level].axes[axis].joins;
  if (joins === undefined) return level < COARSEST ? unit : null;
  const join = unpacked(joins)[unit];
  return join ? join - 1 : null;
}

function weightOf(level, axis, unit) {
  const found = DATA.levels[level].axes[axis];
  return (unpacked(found.weight)[unit] / 255) * found.largest;
}

function affinityOf(level, axis, unit) {
  const found = DATA.levels[level].axes[axis].affinity;
  return found === undefined ? null : unpacked(found)[unit] / 255;
}

// How like its aggregate a unit is; on the coarsest level, how like it its members are on average.
function likenessOf(level, axis, unit) {
  const own = affinityOf(level, axis, unit);
  if (own !== null || !isMerged(level, axis)) return own;
  const members = membersOf(level, axis, unit);
  return members.reduce((sum, m) => sum + affinityOf(level - 1, axis, m), 0) / members.length;
}

// A name as one short line; the end says most, so long names lose their beginning.
function plain(name, length = 24) {
  const line = name.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, "·");
  return line.length > length ? "…" + line.slice(1 - length) : line || "(no name)";
}

const counted = (n, kind) => `${n.toLocaleString("en")} ${kind}${n === 1 ? "" : "s"}`;
const digits = (x) => (x === null || x === undefined ? "–" : x === 0 ? "0" : Number(x).toPrecision(3));

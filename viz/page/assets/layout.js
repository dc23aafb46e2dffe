// Layout: one column for each level, one row for each axis, and units on shelves inside their box.

const UNIT = 20, GAP = 4, PAD = 10, CARD = { w: 176, h: 46 }, ROW_GAP = 26, COLUMN_GAP = 110, HEAD = 52, TITLE = 24;

// Pack boxes {w, h} on shelves. A shelf ends before the box that would make the rectangle too wide.
function packShelves(boxes, unit) {
  const area = boxes.reduce((sum, b) => sum + (b.w + GAP) * (b.h + GAP), 0);
  const widest = Math.max(unit, Math.sqrt(area * 2.4), ...boxes.map((b) => b.w));
  let x = 0, y = 0, high = 0, width = 0;
  const at = [];
  for (const box of boxes) {
    if (x > 0 && x + box.w > widest) { x = 0; y += high + GAP; high = 0; }
    at.push([x, y]);
    x += box.w + GAP;
    width = Math.max(width, x - GAP);
    high = Math.max(high, box.h);
  }
  return { w: width, h: y + high, at };
}

// A tree of {id, children?, w?, h?} with its size and the positions of its children.
function measureTree(tree) {
  if (!tree.children) return { w: tree.w || UNIT, h: tree.h || UNIT, tree };
  const parts = tree.children.map(measureTree);
  const shelves = packShelves(parts, UNIT);
  const top = tree.title ? TITLE : 0;
  return { w: shelves.w + 2 * PAD, h: shelves.h + 2 * PAD + top, tree, parts, at: shelves.at, top };
}

// Boxes are nodes with explicit sizes, not cytoscape parents. Computing the bounds of a parent from hundreds of children
// took more than half of the time to open an axis.
function placeBoxes(box, x, y, out) {
  const top = box.top || 0;
  out.set(box.tree.id, { x: x + box.w / 2, y: y + (box.h + top) / 2, w: box.w, h: box.h - top });
  if (box.parts) box.parts.forEach((part, i) => placeBoxes(part, x + PAD + box.at[i][0], y + PAD + top + box.at[i][1], out));
}

// trees[level][axis] -> centre and size of each element by id, including column heads.
function computePositions(trees) {
  const boxes = trees.map((column) => column.map(measureTree));
  const widths = boxes.map((column) => Math.max(CARD.w, ...column.map((b) => b.w)));
  const heights = DATA.axes.map((_, a) => Math.max(...boxes.map((column) => column[a].h)));
  const out = new Map();
  let x = 0;
  boxes.forEach((column, level) => {
    out.set("h:" + level, { x: x + widths[level] / 2, y: 0, w: 10, h: 10 });
    let y = HEAD;
    column.forEach((box, a) => {
      placeBoxes(box, x + (widths[level] - box.w) / 2, y + (heights[a] - box.h) / 2, out);
      y += heights[a] + ROW_GAP;
    });
    x += widths[level] + COLUMN_GAP;
  });
  return out;
}

// Brush masks: cells of the picture in runs, as the server takes them.
export function cellsOf(mask) {
  const cells = new Uint8Array(mask.rows * mask.columns);
  let at = 0;
  mask.runs.forEach((run, place) => { if (place % 2) cells.fill(1, at, at + run); at += run; });
  return cells;
}
export function maskOf(cells, rows, columns) {
  const runs = [];
  let value = 0, run = 0;
  for (const cell of cells) {
    if (cell !== value) { runs.push(run); value = cell; run = 0; }
    run += 1;
  }
  runs.push(run);
  return { rows, columns, runs };
}
export const emptyMask = (rows, columns) => ({ rows, columns, runs: [rows * columns] });
export const fullMask = (rows, columns) => ({ rows, columns, runs: [0, rows * columns] });
export const covered = (mask) => mask.runs.reduce((sum, run, place) => sum + (place % 2 ? run : 0), 0) / (mask.rows * mask.columns);

// The cells whose centre lies within a stroke from one place to another, and those below its ends. Places and the
// radius are shares of the picture.
export function stroke(cells, rows, columns, from, to, radius, value) {
  const [dx, dy] = [to.x - from.x, to.y - from.y], length = dx * dx + dy * dy;
  for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1) {
      const [x, y] = [(column + 0.5) / columns, (row + 0.5) / rows];
      const along = length ? Math.min(1, Math.max(0, ((x - from.x) * dx + (y - from.y) * dy) / length)) : 0;
      if (Math.hypot(x - from.x - along * dx, y - from.y - along * dy) <= radius) cells[row * columns + column] = value;
    }
  }
  const steps = Math.ceil(Math.max(Math.abs(dx) * columns, Math.abs(dy) * rows) * 2) + 1;
  for (let step = 0; step <= steps; step += 1) {
    const [x, y] = [from.x + (dx * step) / steps, from.y + (dy * step) / steps];
    const [row, column] = [Math.min(rows - 1, Math.floor(y * rows)), Math.min(columns - 1, Math.floor(x * columns))];
    if (row >= 0 && column >= 0) cells[row * columns + column] = value;
  }
}
// The same mask with other cells; one belongs to it if the nearest cell did.
export function resized(mask, rows, columns) {
  if (mask.rows === rows && mask.columns === columns) return mask;
  const old = cellsOf(mask), cells = new Uint8Array(rows * columns);
  const reach = { rows: Math.max(1, rows / mask.rows), columns: Math.max(1, columns / mask.columns) };
  if (rows < mask.rows) { // coarser: a cell that any of the finer ones touches
    old.forEach((cell, place) => {
      const [row, column] = [Math.floor(place / mask.columns), place % mask.columns];
      if (cell) cells[Math.floor((row * rows) / mask.rows) * columns + Math.floor((column * columns) / mask.columns)] = 1;
    });
  } else {
    for (let place = 0; place < cells.length; place += 1) {
      const [row, column] = [Math.floor(place / columns / reach.rows), Math.floor((place % columns) / reach.columns)];
      cells[place] = old[row * mask.columns + column];
    }
  }
  return maskOf(cells, rows, columns);
}

/** Kernel maps: at which places around a unit's own a source builds it or works against it. */

/** Squares a side of what is drawn; larger kernels are averaged. */
const MOST = 15;
/** Squares below this share of the largest are not drawn. */
const SMALLEST_DRAWN = 0.02;

interface Square {
  row: number;
  col: number;
  /** −1 to 1, as a share of the kernel's largest. */
  value: number;
}

interface KernelMap {
  rows: number;
  cols: number;
  squares: Square[];
}

/** A kernel as squares to be drawn, no more than MOST a side. */
export function kernelMap(kernel: readonly number[], [height, width]: readonly [number, number]): KernelMap {
  const step = Math.max(1, Math.ceil(Math.max(height, width) / MOST));
  const [rows, cols] = [Math.ceil(height / step), Math.ceil(width / step)];
  const sums = new Float64Array(rows * cols);
  kernel.forEach((value, i) => {
    const at = Math.floor(Math.floor(i / width) / step) * cols + Math.floor((i % width) / step);
    sums[at] = (sums[at] as number) + value;
  });
  const largest = sums.reduce((most, sum) => Math.max(most, Math.abs(sum)), 0);
  const squares: Square[] = [];
  sums.forEach((sum, i) => {
    const value = largest > 0 ? sum / largest : 0;
    if (Math.abs(value) >= SMALLEST_DRAWN) squares.push({ row: Math.floor(i / cols), col: i % cols, value });
  });
  return { rows, cols, squares };
}

/** Where the weight of a kernel lies around its middle, −1 (left, top edge) to 1 (right, bottom edge): the centre of |kernel|. */
export function centreOf(kernel: readonly number[], [height, width]: readonly [number, number]): { x: number; y: number } {
  let [sum, x, y] = [0, 0, 0];
  kernel.forEach((value, i) => {
    const size = Math.abs(value);
    sum += size;
    x += size * (i % width);
    y += size * Math.floor(i / width);
  });
  const along = (moment: number, length: number) => (sum > 0 && length > 1 ? (2 * moment) / sum / (length - 1) - 1 : 0);
  return { x: along(x, width), y: along(y, height) };
}

/** How far off the middle a centre clearly is, as a share of the kernel's half. */
export const CLEAR = 0.08;

/** Whether a kernel's weight lies above, below, left or right of the unit's own place, in words. */
export function directionWords({ x, y }: { x: number; y: number }): string {
  const parts = [y < -CLEAR ? 'above' : y > CLEAR ? 'below' : '', x < -CLEAR ? 'to the left' : x > CLEAR ? 'to the right' : ''].filter(Boolean);
  return parts.length ? parts.join(' and ') : 'in the middle';
}

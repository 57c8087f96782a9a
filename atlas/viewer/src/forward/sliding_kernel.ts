/** One kernel on one input channel, place by place: the part of a convolution that the page works out itself. */

import type { Matrix, Step } from './pass';

export interface KernelSlide {
  input: Float32Array;
  rows: number;
  cols: number;
  kernel: Matrix;
  step: Step;
}

/** Where the patch of an output position begins; beyond the edge where padding is read. */
export function patchCorner(step: Step, y: number, x: number): [number, number] {
  const [down, right] = step.stride ?? [1, 1];
  const [[top], [left]] = step.padding ?? [[0, 0], [0, 0]];
  return [y * down - top, x * right - left];
}

/** What lies under the kernel at an output position; 0 beyond the edge. */
export function patchAt(sliding: KernelSlide, y: number, x: number): number[][] {
  const { input, rows, cols, kernel, step } = sliding;
  const [top, left] = patchCorner(step, y, x);
  const [down, right] = step.dilation ?? [1, 1];
  return kernel.map((line, i) =>
    line.map((_, j) => {
      const [row, col] = [top + i * down, left + j * right];
      return row < 0 || col < 0 || row >= rows || col >= cols ? 0 : (input[row * cols + col] as number);
    }),
  );
}

export function productOf(patch: Matrix, kernel: Matrix): number[][] {
  return patch.map((line, i) => line.map((value, j) => (value ?? 0) * (kernel[i]?.[j] ?? 0)));
}

export function sumOf(grid: Matrix): number {
  return grid.flat().reduce<number>((sum, value) => sum + (value ?? 0), 0);
}

/** What this input channel adds to each position of the output. */
export function contributionOf(sliding: KernelSlide): Float32Array {
  const [, rows = 1, cols = 1] = sliding.step.shape;
  const out = new Float32Array(rows * cols);
  for (let i = 0; i < out.length; i++) {
    out[i] = sumOf(productOf(patchAt(sliding, Math.floor(i / cols), i % cols), sliding.kernel));
  }
  return out;
}

/** The first so many numbers of a map; the others are not there yet (NaN). */
export function firstNumbers(map: Float32Array, count: number): Float32Array {
  const out = new Float32Array(map.length).fill(Number.NaN);
  out.set(map.subarray(0, count));
  return out;
}

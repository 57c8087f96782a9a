/** Cells made for tests. */

import { Cells, type CellColumns } from '../src/lib/cells';

/** classes.bin: ten values a cell, then ten numbers; 65535 where there is no class. */
export function tops(classes: number[][], values: number[][]): ArrayBuffer {
  const pad = (list: number[], fill: number) => [...list, ...Array<number>(10 - list.length).fill(fill)];
  const floats = Float32Array.from(values.flatMap((list) => pad(list, 0)));
  const numbers = Uint16Array.from(classes.flatMap((list) => pad(list, 65535)));
  const buffer = new Uint8Array(floats.byteLength + numbers.byteLength);
  buffer.set(new Uint8Array(floats.buffer));
  buffer.set(new Uint8Array(numbers.buffer), floats.byteLength);
  return buffer.buffer;
}

/** All cells of a grid, each speaking for the class that `of` gives it; undrawn where it gives none. */
export function wholeGrid(grid: number, of: (row: number, col: number) => number | null, count = (_row: number, _col: number) => 10): Cells {
  const places = Array.from({ length: grid * grid }, (_, i) => [Math.floor(i / grid), i % grid] as const);
  const classIndices = places.map(([row, col]) => of(row, col));
  const columns: CellColumns = {
    grid,
    row: places.map(([row]) => row),
    col: places.map(([, col]) => col),
    count: places.map(([row, col]) => count(row, col)),
    mean_cosine: places.map(() => 0.8),
    drawn: classIndices.map((name) => (name === null ? 0 : 1)),
    cosine: classIndices.map((name) => (name === null ? null : 0.9)),
    flag: classIndices.map(() => null),
  };
  return new Cells(columns, tops(classIndices.map((name) => (name === null ? [] : [name])), classIndices.map((name) => (name === null ? [] : [0.5]))));
}

import { describe, expect, it } from 'vitest';

import { Cells, cellUnder } from '../src/lib/cells';
import { tops } from './made_cells';

const columns = {
  grid: 10,
  row: [0, 9, 4],
  col: [0, 9, 7],
  count: [12, 34, 3],
  mean_cosine: [0.9, 0.8, 0.7],
  drawn: [1, 1, 0],
  cosine: [0.93, 0.51, null],
  flag: [null, 'low', null],
};
const cells = new Cells(columns, tops([[1, 2], [3, 4], [5]], [[0.5, 0.125], [0.25, -0.5], [0.125]]));

describe('cellUnder', () => {
  it('turns a point into row and column: y down is the row, x to the right the column', () => {
    expect(cellUnder({ x: 0.75, y: 0.45 }, 10)).toEqual({ row: 4, col: 7 });
    expect(cellUnder({ x: 0, y: 0.999 }, 10)).toEqual({ row: 9, col: 0 });
  });

  it('gives a point on a line to the cell behind it, and the last line to the last cell', () => {
    expect(cellUnder({ x: 0.5, y: 0.1 }, 10)).toEqual({ row: 1, col: 5 });
    expect(cellUnder({ x: 1, y: 1 }, 10)).toEqual({ row: 9, col: 9 });
  });

  it('finds nothing outside the map', () => {
    expect(cellUnder({ x: -0.001, y: 0.5 }, 10)).toBeNull();
    expect(cellUnder({ x: 0.5, y: 1.001 }, 10)).toBeNull();
    expect(cellUnder({ x: Number.NaN, y: 0 }, 10)).toBeNull();
  });
});

describe('Cells', () => {
  it('gathers a cell from the columns', () => {
    expect(cells.under({ x: 0.95, y: 0.95 })).toEqual({
      grid: 10,
      row: 9,
      col: 9,
      index: 1,
      count: 34,
      mean_cosine: 0.8,
      drawn: true,
      cosine: 0.51,
      flag: 'low',
      classes: [3, 4],
      values: [0.25, -0.5],
    });
  });

  it('knows cells that are not drawn, and empty ones', () => {
    expect(cells.at(4, 7)).toMatchObject({ count: 3, drawn: false, cosine: null });
    expect(cells.get(2).classes).toEqual([5]);
    expect(cells.at(7, 4)).toBeNull();
    expect(cells.at(-1, 9)).toBeNull();
    expect(cells.at(0, 10)).toBeNull();
  });
});

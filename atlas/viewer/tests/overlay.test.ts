import { describe, expect, it } from 'vitest';

import { sizesOf } from '../src/map/overlay';
import { wholeGrid } from './made_cells';

describe('sizesOf', () => {
  const cells = wholeGrid(10, () => 0, (row, col) => (row === 0 && col === 0 ? 25 : row === 0 && col === 1 ? 1 : 100));

  it('makes a cell’s area go by its count, but nothing too small to be seen', () => {
    const sizes = sizesOf(cells, 1);
    expect(sizes[5]).toBe(1);
    expect(sizes[0]).toBeCloseTo(0.5);
    expect(sizes[1]).toBeCloseTo(0.25);
  });

  it('does less when asked for less', () => {
    expect(sizesOf(cells, 0.5)[0]).toBeCloseTo(0.75);
    expect(sizesOf(cells, 0)[0]).toBe(1);
  });
});

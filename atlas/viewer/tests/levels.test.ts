import { describe, expect, it } from 'vitest';

import { gridOfLevel, gridShown, thumbnailLevel, topLevel } from '../src/lib/levels';

const grids = [10, 20, 40];

describe('gridShown', () => {
  it('takes the finest grid whose icons are at least half their own size', () => {
    expect(gridShown(grids, 80, 864)).toBe(20); // 43 px an icon
    expect(gridShown(grids, 80, 1599)).toBe(20); // 39.98 px at the next level
    expect(gridShown(grids, 80, 1600)).toBe(40); // exactly 40 px
    expect(gridShown(grids, 80, 9000)).toBe(40);
  });

  it('keeps the coarsest grid when even its icons are small', () => {
    expect(gridShown(grids, 80, 360)).toBe(10);
    expect(gridShown(grids, 80, 20)).toBe(10);
  });

  it('does not depend on the order of the grids', () => {
    expect(gridShown([40, 10, 20], 80, 864)).toBe(20);
  });
});

describe('levels of the pyramid', () => {
  it('numbers the level of a grid by the doublings from one pixel', () => {
    expect(topLevel(800)).toBe(10);
    expect(topLevel(1600)).toBe(11);
    expect(topLevel(1024)).toBe(10);
    expect(topLevel(1025)).toBe(11);
    expect(topLevel(1)).toBe(0);
  });

  it('gives each level its own grid, and the coarsest one to all below', () => {
    expect([12, 11, 10, 9, 3, 0].map((level) => gridOfLevel(level, grids, 80))).toEqual([40, 20, 10, 10, 10, 10]);
  });

  it('takes for a thumbnail the highest level that fits one tile and the size', () => {
    expect(thumbnailLevel(grids, 80, 640, 400)).toBe(9); // 400 px
    expect(thumbnailLevel(grids, 80, 640, 399)).toBe(8);
    expect(thumbnailLevel(grids, 80, 640, 5000)).toBe(9); // 800 px would be four tiles
    expect(thumbnailLevel([4, 8], 80, 640, 640)).toBe(9); // 320 px
  });
});

import { describe, expect, it } from 'vitest';

import { blockOf, regionLabels, placeLabels } from '../src/map/labels';
import { wholeGrid } from './made_cells';

describe('blockOf', () => {
  it('keeps regions at about the same size on the screen', () => {
    expect([170, 80, 43, 21].map((side) => blockOf(side, 160))).toEqual([1, 2, 4, 8]);
    expect(blockOf(400, 20)).toBe(1);
    expect(blockOf(2, 20)).toBe(20);
  });
});

describe('regionLabels', () => {
  it('gives neighbours of one name one label, in their middle', () => {
    const halves = wholeGrid(16, (_row, col) => (col < 8 ? 3 : 5));
    const labels = regionLabels(halves, 4);
    expect(labels.map(({ index, weight }) => [index, weight])).toEqual([[3, 128], [5, 128]]);
    expect(labels[0]?.x).toBeCloseTo(0.25, 0);
    expect((labels[0]?.x as number) < 0.5 && (labels[1]?.x as number) > 0.5).toBe(true);
  });

  it('splits a region when it comes nearer', () => {
    const corner = wholeGrid(16, (row, col) => (row < 2 && col < 2 ? 7 : 3));
    expect(regionLabels(corner, 8).map(({ index }) => index)).toEqual([3]);
    expect(regionLabels(corner, 2).map(({ index }) => index).sort()).toEqual([3, 7]);
  });

  it('names no empty ground, and puts the name on the region where its middle is not', () => {
    const ring = wholeGrid(9, (row, col) => (row > 2 && row < 6 && col > 2 && col < 6 ? null : 1));
    const [label] = regionLabels(ring, 3);
    expect(label?.index).toBe(1);
    const [row, col] = [Math.floor((label?.y as number) * 9), Math.floor((label?.x as number) * 9)];
    expect(row > 2 && row < 6 && col > 2 && col < 6).toBe(false);
    expect(regionLabels(wholeGrid(8, () => null), 2)).toEqual([]);
  });
});

describe('thinned', () => {
  const label = (index: number, x: number, y: number) => ({ index, x, y, weight: 10 - index });
  const place = (labels: ReturnType<typeof label>[]) =>
    placeLabels(labels, ({ x, y }) => ({ x: x * 1000, y: y * 1000 }), () => ({ width: 100, height: 20 }), { width: 1000, height: 1000 });

  it('lets no name overlap another, the first come first', () => {
    expect(place([label(0, 0.5, 0.5), label(1, 0.55, 0.51), label(2, 0.5, 0.6)]).map(({ index }) => index)).toEqual([0, 2]);
    expect(place([label(1, 0.55, 0.51), label(0, 0.5, 0.5)]).map(({ index }) => index)).toEqual([1]);
  });

  it('cuts no name off at the edge', () => {
    expect(place([label(0, 0.01, 0.5), label(1, 0.5, 0.999)])).toEqual([]);
  });
});

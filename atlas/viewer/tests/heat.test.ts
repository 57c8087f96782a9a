import { describe, expect, it } from 'vitest';

import { normalise, OPPOSE, SUPPORT, heatPixels, type Heat } from '../src/lib/heat';
import { wholeGrid } from './made_cells';

const grid = wholeGrid(2, (row, col) => (row === 1 && col === 1 ? null : 0));
const heat = (...shares: number[]): Heat => ({ cells: grid, shares: Float32Array.from(shares) });
const alpha = (pixels: Uint8ClampedArray, cell: number) => (pixels[4 * cell + 3] as number) / 255;
const colour = (pixels: Uint8ClampedArray, cell: number) => [...pixels.subarray(4 * cell, 4 * cell + 3)];

describe('normalised', () => {
  it('fills each side by what few of its drawn cells exceed', () => {
    const shares = normalise(Uint8Array.from([128 + 40, 128 + 20, 128 - 10, 255]), Uint8Array.from([1, 1, 1, 0]));
    expect([...shares]).toEqual([1, 0.5, -1, 1]); // what is not drawn is cut off
    const many = Uint8Array.from({ length: 100 }, (_, i) => (i < 98 ? 128 + 10 : 128 + 100));
    expect([...normalise(many, new Uint8Array(100).fill(1))].slice(96)).toEqual([1, 1, 1, 1]);
    expect([...normalise(Uint8Array.from([128, 128]), Uint8Array.from([1, 1]))]).toEqual([0, 0]);
  });
});

describe('heatPixels', () => {
  it('leaves what supports a class as it is and darkens the rest', () => {
    const pixels = heatPixels([heat(1, 0, -1, 1)], 'support', 0.8);
    expect(alpha(pixels, 0)).toBe(0);
    expect(alpha(pixels, 1)).toBeCloseTo(0.8, 2);
    expect(alpha(pixels, 2)).toBeCloseTo(0.8, 2);
    expect(Math.max(...colour(pixels, 1))).toBeLessThan(20);
    expect(alpha(pixels, 3)).toBe(0); // it is not drawn
  });

  it('lights up what opposes it when asked', () => {
    const pixels = heatPixels([heat(1, 0, -1, 1)], 'oppose', 0.8);
    expect(alpha(pixels, 0)).toBeCloseTo(0.8, 2);
    expect(alpha(pixels, 2)).toBe(0);
  });

  it('is darker where there is less', () => {
    const pixels = heatPixels([heat(0.9, 0.5, 0.1, 0)], 'support', 1);
    expect(alpha(pixels, 0)).toBeLessThan(alpha(pixels, 1));
    expect(alpha(pixels, 1)).toBeLessThan(alpha(pixels, 2));
  });

  it('tells both sides, and two classes, apart by colour', () => {
    const sides = heatPixels([heat(1, 0, -1, 1)], 'both', 0.8);
    expect(colour(sides, 0)).toEqual([...SUPPORT]);
    expect(colour(sides, 2)).toEqual([...OPPOSE]);
    expect(alpha(sides, 0)).toBeCloseTo(0.55, 2);
    const two = heatPixels([heat(1, 0, 1, 0), heat(0, 1, 1, 0)], 'support', 0.8);
    expect(colour(two, 0)).toEqual([...SUPPORT]);
    expect(colour(two, 1)).toEqual([...OPPOSE]);
    expect(colour(two, 2)[0]).toBeCloseTo((SUPPORT[0] + OPPOSE[0]) / 2, -1);
  });
});

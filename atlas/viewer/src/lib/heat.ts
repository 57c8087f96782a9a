/** The effect of each cell on a class: fetched in files of several classes, and drawn as heat over the map. */

import { damagedFile, fetchBytes, gridAddress, iconsAddress, type Atlas, type AtlasMap } from './atlas';
import { PromiseCache } from './cache';
import type { Cells } from './cells';
import type { HeatSide } from './link';

/** The byte that stands for no effect at all; larger ones support the class. */
const ZERO = 128;
/** The share of a side's cells below which a value is less than full. */
const FULL = 0.97;
/** Files in the cache: those of the largest levels have about a megabyte each. */
const CACHE_SIZE = 12;

const cache = new PromiseCache<ArrayBuffer>(CACHE_SIZE);

/** One class on one grid, as shares of its strongest support or opposition there. */
export interface Heat {
  cells: Cells;
  /** −1 (most opposed) to 1 (most supported), for each cell in the order of its columns. */
  shares: Float32Array;
}

/** Throws a UserError where the file cannot be loaded. */
export function loadHeat(atlas: Atlas, atlasMap: AtlasMap, cells: Cells, index: number): Promise<Heat> {
  return heatOf(iconsAddress(atlasMap, cells.grid), cells, 'classes', index, atlas.classes_per_file);
}

/** Units that a file of heat holds. */
const UNITS_PER_FILE = 50;

/** How strongly one unit answers in each cell of its layer. Throws a UserError where the file cannot be loaded. */
export function loadUnitHeat(atlasMap: AtlasMap, cells: Cells, unit: number): Promise<Heat> {
  return heatOf(gridAddress(atlasMap, cells.grid), cells, 'units', unit, UNITS_PER_FILE);
}

async function heatOf(folder: string, cells: Cells, name: string, index: number, perFile: number): Promise<Heat> {
  const file = Math.floor(index / perFile);
  const address = `${folder}/${name}-${String(file).padStart(3, '0')}.bin`;
  const bytes = new Uint8Array(await cache.get(address, () => fetchBytes(address)));
  const start = (index - file * perFile) * cells.length;
  if (bytes.length < start + cells.length) throw damagedFile(address);
  return { cells, shares: normalise(bytes.subarray(start, start + cells.length), cells.drawn) };
}

/**
 * Bytes as shares of what only a few of the drawn cells exceed, on each side of zero by itself: each side fills its range,
 * and one cell that stands out does not leave all others dark.
 */
export function normalise(bytes: Uint8Array, drawnFlags: Uint8Array): Float32Array {
  const [most, least] = [limitOf(bytes, drawnFlags, 1), -limitOf(bytes, drawnFlags, -1)];
  const shares = new Float32Array(bytes.length);
  for (let i = 0; i < bytes.length; i++) {
    const value = (bytes[i] as number) - ZERO;
    const limit = value > 0 ? most : -least;
    shares[i] = limit > 0 ? Math.max(-1, Math.min(1, value / limit)) : 0;
  }
  return shares;
}

/** The value that FULL of the drawn cells that are on a side of zero do not exceed. */
function limitOf(bytes: Uint8Array, drawnFlags: Uint8Array, sign: 1 | -1): number {
  const counts = new Uint32Array(ZERO + 1);
  let total = 0;
  for (let i = 0; i < bytes.length; i++) {
    const value = sign * ((bytes[i] as number) - ZERO);
    if (!drawnFlags[i] || value <= 0) continue;
    counts[value] = (counts[value] as number) + 1;
    total += 1;
  }
  let covered = 0;
  for (let value = 1; value <= ZERO; value++) {
    covered += counts[value] as number;
    if (covered > 0 && covered >= FULL * total) return value;
  }
  return 0;
}

type Colour = readonly [number, number, number];
export const SUPPORT: Colour = [217, 95, 2];
export const OPPOSE: Colour = [27, 108, 168];
const DARK: Colour = [14, 15, 17];
/** How much of a colour lies over a cell that is wholly of it, and how much of the darkness where two colours speak. */
const TINT = 0.55;
const DARKNESS = 0.7;
/** Weak values are lifted a little, so that they differ visibly from zero. */
const LIFT = 0.7;

/**
 * The heat over the cells of a grid, as the pixels (RGBA) of a picture of grid × grid.
 *
 * One class lights up what supports it (or opposes it) and darkens the rest; both sides, or two classes, differ
 * by colour. `darkening` (0 to 1) is how dark the rest becomes.
 */
export function heatPixels(heats: readonly Heat[], side: HeatSide, darkening: number): Uint8ClampedArray<ArrayBuffer> {
  const [first, second] = heats as [Heat, Heat?];
  const { cells } = first;
  const pixels = new Uint8ClampedArray(cells.grid * cells.grid * 4);
  const two = second !== undefined || side === 'both';
  for (let i = 0; i < cells.length; i++) {
    if (!cells.drawn[i]) continue;
    const value = first.shares[i] as number;
    const one = Math.max(0, side === 'oppose' && !second ? -value : value) ** LIFT;
    const other = !two ? 0 : Math.max(0, second ? (second.shares[i] as number) : -value) ** LIFT;
    const lit = Math.max(one, other);
    const [colour, alpha] = two ? mixColours(one, other, DARKNESS * darkening * (1 - lit)) : [DARK, darkening * (1 - lit)];
    const at = ((cells.row[i] as number) * cells.grid + (cells.col[i] as number)) * 4;
    pixels[at] = colour[0];
    pixels[at + 1] = colour[1];
    pixels[at + 2] = colour[2];
    pixels[at + 3] = Math.round(255 * alpha);
  }
  return pixels;
}

/** Colours of two sides under the darkening, as one colour and its opacity. */
function mixColours(one: number, other: number, dark: number): [Colour, number] {
  const sum = one + other;
  const tint = TINT * Math.max(one, other);
  const alpha = 1 - (1 - tint) * (1 - dark);
  if (alpha === 0) return [DARK, 0];
  const part = sum > 0 ? one / sum : 0;
  const mix = (channel: 0 | 1 | 2) => {
    const coloured = part * SUPPORT[channel] + (1 - part) * OPPOSE[channel];
    return (coloured * tint * (1 - dark) + DARK[channel] * dark) / alpha;
  };
  return [[mix(0), mix(1), mix(2)], alpha];
}

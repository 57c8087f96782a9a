/** A site's files about units (channels of a layer), with a cache of the last used ones. */

import { damagedFile, fetchBytes, fetchJson, gridAddress, folderAddress, type AtlasMap, type UnitLayer } from '../lib/atlas';
import { PromiseCache } from '../lib/cache';

/** units.json: a column each, with one value a unit. */
export interface UnitTable {
  layer: string;
  units: number;
  largest: number[];
  mean: number[];
  /** Share of the rows in which the unit is above 0. */
  active_share: number[];
  never_active: number[];
  selectivity: (number | null)[];
  invariance: (number | null)[];
  /** The classes that each unit supports most, with their effects. */
  classes: [number, number][][];
  /** The units that answer most alike, with their correlations. */
  correlated: [number, number][][];
}

/** A patch of a picture, and how strongly the unit answers in its middle. */
export interface Patch {
  image: string;
  activation: number;
  /** Where it lies in the whole picture's sprite: left, top, right, bottom in shares of its side. */
  frame: [number, number, number, number];
  label: number | null;
  predicted: number;
  confidence: number;
}

/** The answers to top patches that are turned, mirrored and turned, and scaled. */
export interface Tuning {
  degrees: number[];
  response: number[];
  per_patch: number[][];
  mirrored: number[];
  scales: number[];
  scaled: number[];
  selectivity: number | null;
  invariance: number | null;
  preferred_angle: number | null;
  largest_response: number;
}

/** A unit of an earlier layer that builds this one. */
export interface CircuitSource {
  unit: number;
  /** Expanded weight, through the average slope of each non-linearity; summed over the kernel. */
  weight: number;
  linear_weight: number;
  /** Mean over the unit's top patches of the source's activation times its gradient. */
  effect: number;
  /** The part of the effect from where the source is above 0; without it all is taken to be from there. */
  effect_above_zero?: number;
  /** The weight at each place around the unit's own, row by row, in steps of which 127 are the largest, whatever the sign. */
  kernel: number[];
  reliability: number;
}

/** What builds a unit out of one earlier layer. */
export interface Circuit {
  layer: string;
  /** How far weights times mean activations agree with the effects in the data (correlation). */
  agreement: number | null;
  /** The non-linearities that were passed over. */
  nonlinearities: string[];
  note: string | null;
  kernel: [number, number];
  sources: CircuitSource[];
}

export type SpriteKind = 'top' | 'whole' | 'spread' | 'rotated' | 'mirrored' | 'scaled';
const SPRITE_KINDS: readonly SpriteKind[] = ['top', 'whole', 'spread', 'rotated', 'mirrored', 'scaled'];

/** unit-0007.json */
export interface UnitFacts {
  unit: number;
  layer: string;
  /** How many pictures were made for it: unit-0007-pictures.webp, side by side. */
  pictures: number;
  sprite: number;
  rows: Record<SpriteKind, number>;
  histogram: { low: number; high: number; counts: number[] };
  top: Patch[];
  spread: (Patch & { share: number })[];
  supports: [number, number][];
  opposes: [number, number][];
  tuning: Tuning | null;
  note: string | null;
  circuit: Circuit[];
}

/** Which cells of the earlier layer's map build a cell: grid, row, column, weight (−1 to 1), share of its rows there. */
export type CellSource = [number, number, number, number, number];

interface CellCircuitFile {
  source_map: string;
  grid: number;
  cells: Record<string, CellSource[]>;
}

/** One sprite of a sheet, in the terms of a CSS background. */
export interface Sprite {
  address: string;
  columns: number;
  lines: number;
  column: number;
  line: number;
}

/** Files in the cache. */
const CACHE_SIZE = 60;
const cache = new PromiseCache<unknown>(CACHE_SIZE);

export function loadTable(layer: UnitLayer): Promise<UnitTable> {
  const address = `${folderAddress(layer)}/units.json`;
  return cache.get(address, async () => {
    const table = (await fetchJson(address)) as UnitTable;
    if (table.largest.length !== layer.units) throw damagedFile(address);
    return table;
  });
}

export function loadUnit(layer: UnitLayer, unit: number): Promise<UnitFacts> {
  const address = `${unitAddress(layer, unit)}.json`;
  return cache.get(address, () => fetchJson(address) as Promise<UnitFacts>);
}

/** What builds a cell of a layer; empty where nothing is known of it. */
export async function loadCellCircuit(atlasMap: AtlasMap, { grid, row, col }: { grid: number; row: number; col: number }): Promise<{ source_map: string; cells: CellSource[] }> {
  const address = `${gridAddress(atlasMap, grid)}/built.json`;
  const { source_map, cells } = await cache.get(address, () => fetchJson(address) as Promise<CellCircuitFile>);
  return { source_map, cells: cells[`${row}.${col}`] ?? [] };
}

/**
 * The mean effect of each unit of a layer on one of so many classes. classes.bin: the scale of each class as float32 (little
 * endian), then a byte for each class and unit, class by class; (byte − 128) / 127 × scale is the effect.
 */
export async function loadEffects(layer: UnitLayer, index: number, classes: number): Promise<number[]> {
  const address = `${folderAddress(layer)}/classes.bin`;
  const file = await cache.get(address, () => fetchBytes(address));
  if (file.byteLength !== classes * (4 + layer.units)) throw damagedFile(address);
  const scale = new DataView(file).getFloat32(4 * index, true);
  return [...new Uint8Array(file, 4 * classes + index * layer.units, layer.units)].map((byte) => ((byte - 128) / 127) * scale);
}

function unitAddress(layer: UnitLayer, unit: number): string {
  return `${folderAddress(layer)}/unit-${String(unit).padStart(4, '0')}`;
}

/** A unit's icon on its layer's sheet. */
export function iconOf(layer: UnitLayer, unit: number): Sprite {
  return {
    address: `${folderAddress(layer)}/icons.webp`,
    columns: layer.across,
    lines: Math.ceil(layer.units / layer.across),
    column: unit % layer.across,
    line: Math.floor(unit / layer.across),
  };
}

/** One of the pictures that were made for a unit. */
export function pictureOf(layer: UnitLayer, { unit, pictures }: UnitFacts, column: number): Sprite {
  return { address: `${unitAddress(layer, unit)}-pictures.webp`, columns: pictures, lines: 1, column, line: 0 };
}

/** One of a unit's own sprites; a kind of which there is none has no line. */
export function spriteOf(layer: UnitLayer, { unit, rows }: UnitFacts, row: SpriteKind, column: number): Sprite {
  const lines = SPRITE_KINDS.filter((kind) => rows[kind] > 0);
  return {
    address: `${unitAddress(layer, unit)}.webp`,
    columns: Math.max(...lines.map((kind) => rows[kind])),
    lines: lines.length,
    column,
    line: lines.indexOf(row),
  };
}

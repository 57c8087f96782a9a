/** Names on the map: for each region the class that most of its cells speak for, as on a map of a country. */

import { Cells } from '../lib/cells';

export interface Label {
  /** Number of the class. */
  index: number;
  /** Place on the map ([0, 1]²). */
  x: number;
  y: number;
  /** How many cells speak for it; the largest are placed first. */
  weight: number;
}

interface BoxSize {
  width: number;
  height: number;
}

/** Regions are about so wide on the screen, in CSS pixels. */
const REGION = 170;
/** Classes of a cell that count, by their values beside its largest. */
const COUNTED = 3;
/** A region of fewer cells than this share of its square has no name. */
const LEAST_SHARE = 0.2;

/** How many cells a side a region has where cells are `side` pixels wide: a power of two. */
export function blockOf(side: number, grid: number): number {
  const ideal = 2 ** Math.max(0, Math.round(Math.log2(REGION / side)));
  return Math.min(ideal, grid);
}

/**
 * The names of a grid's regions: squares of `block` × `block` cells, joined where neighbours have the same name, each
 * named after the class that its cells speak most for. Classes of `without`, which all of the
 * map speaks for, are no names. Largest first.
 */
export function regionLabels(cells: Cells, block: number, without: ReadonlySet<number> = new Set()): Label[] {
  const across = Math.ceil(cells.grid / block);
  const votes: Map<number, number>[] = Array.from({ length: across * across }, () => new Map());
  const sizes = new Float64Array(across * across);
  for (let i = 0; i < cells.length; i++) {
    if (!cells.drawn[i]) continue;
    const at = Math.floor((cells.row[i] as number) / block) * across + Math.floor((cells.col[i] as number) / block);
    sizes[at] = (sizes[at] as number) + 1;
    const squareVotes = votes[at] as Map<number, number>;
    let first = 0;
    for (let rank = 0, used = 0; rank < Cells.classesPerCell && used < COUNTED; rank++) {
      const value = cells.topValues[i * Cells.classesPerCell + rank] as number;
      const index = cells.topClasses[i * Cells.classesPerCell + rank] as number;
      if (without.has(index)) continue;
      used += 1;
      first ||= value;
      if (value > 0) squareVotes.set(index, (squareVotes.get(index) ?? 0) + value / first);
    }
  }
  const names = votes.map((squareVotes, at) => ((sizes[at] as number) >= Math.max(1, LEAST_SHARE * block * block) ? winner(squareVotes) : -1));
  return labelsOfRegions(connectedSquares(names, across), names, cells, block, across);
}

function winner(votes: Map<number, number>): number {
  let best = -1;
  let most = 0;
  for (const [index, value] of votes) {
    if (value > most || (value === most && index < best)) [best, most] = [index, value];
  }
  return best;
}

/** Squares of the same name that touch, as lists of their numbers; squares without a name are in none. */
function connectedSquares(names: readonly number[], across: number): number[][] {
  const visited = new Uint8Array(names.length);
  const regions: number[][] = [];
  for (let start = 0; start < names.length; start++) {
    if (visited[start] || (names[start] as number) < 0) continue;
    visited[start] = 1;
    const region = [start];
    for (const at of region) {
      const col = at % across;
      for (const next of [at - across, at + across, ...(col > 0 ? [at - 1] : []), ...(col < across - 1 ? [at + 1] : [])]) {
        if (next < 0 || next >= names.length || visited[next] || names[next] !== names[start]) continue;
        visited[next] = 1;
        region.push(next);
      }
    }
    regions.push(region);
  }
  return regions.sort((one, other) => other.length - one.length);
}

/** The labels of regions, each on that of its cells that is nearest to the middle of all of them. */
function labelsOfRegions(regions: readonly number[][], names: readonly number[], cells: Cells, block: number, across: number): Label[] {
  const regionOf = new Int32Array(names.length).fill(-1);
  regions.forEach((region, number) => region.forEach((at) => (regionOf[at] = number)));
  const members: number[][] = regions.map(() => []);
  for (let i = 0; i < cells.length; i++) {
    const at = Math.floor((cells.row[i] as number) / block) * across + Math.floor((cells.col[i] as number) / block);
    if (cells.drawn[i] && regionOf[at] !== -1) members[regionOf[at] as number]?.push(i);
  }
  return regions.map((region, number) => {
    const regionCells = members[number] as number[];
    let [x, y] = [0, 0];
    for (const i of regionCells) [x, y] = [x + (cells.col[i] as number) / regionCells.length, y + (cells.row[i] as number) / regionCells.length];
    const away = (i: number) => ((cells.col[i] as number) - x) ** 2 + ((cells.row[i] as number) - y) ** 2;
    const nearest = regionCells.reduce((best, cell) => (away(cell) < away(best) ? cell : best));
    return {
      index: names[region[0] as number] as number,
      x: ((cells.col[nearest] as number) + 0.5) / cells.grid,
      y: ((cells.row[nearest] as number) + 0.5) / cells.grid,
      weight: regionCells.length,
    };
  });
}

export interface PlacedLabel extends Label {
  left: number;
  top: number;
}

/** The labels that find room, the largest first: none overlaps another, and all lie in the viewport. */
export function placeLabels(
  labels: readonly Label[],
  at: (label: Label) => { x: number; y: number },
  size: (label: Label) => BoxSize,
  viewport: BoxSize,
  gap = 6,
): PlacedLabel[] {
  const placed: (PlacedLabel & BoxSize)[] = [];
  for (const label of labels) {
    const middle = at(label);
    const { width, height } = size(label);
    const [left, top] = [middle.x - width / 2, middle.y - height / 2];
    if (left < 0 || top < 0 || left + width > viewport.width || top + height > viewport.height) continue;
    const free = placed.every(
      (other) =>
        left >= other.left + other.width + gap ||
        other.left >= left + width + gap ||
        top >= other.top + other.height + gap ||
        other.top >= top + height + gap,
    );
    if (free) placed.push({ ...label, left, top, width, height });
  }
  return placed;
}

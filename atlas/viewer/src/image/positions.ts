/** Positions of a layer's map, numbered row by row, and places of the picture, which are the same for all layers. */

import type { Box } from '../lib/frame';
import type { Point } from '../lib/levels';

interface MapSize {
  rows: number;
  cols: number;
}

/** The position that holds a place ([0, 1]²). */
export function positionAt({ rows, cols }: MapSize, place: Point): number {
  const along = (share: number, length: number) => Math.min(length - 1, Math.max(0, Math.floor(share * length)));
  return along(place.y, rows) * cols + along(place.x, cols);
}

/** The place in the middle of a position. */
export function middleOf({ cols, rows }: MapSize, position: number): Point {
  return { x: ((position % cols) + 0.5) / cols, y: (Math.floor(position / cols) + 0.5) / rows };
}

/** The position some steps away, or at the edge where the map ends. */
export function stepFrom({ cols, rows }: MapSize, position: number, right: number, down: number): number {
  const within = (at: number, length: number) => Math.min(length - 1, Math.max(0, at));
  return within(Math.floor(position / cols) + down, rows) * cols + within((position % cols) + right, cols);
}

/** Where a position lies on a square of `side` pixels. */
export function boxOf({ rows, cols }: MapSize, position: number, side: number): Box {
  const [width, height] = [side / cols, side / rows];
  return { left: (position % cols) * width, top: Math.floor(position / cols) * height, width, height };
}

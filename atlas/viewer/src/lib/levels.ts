/** Which grid is shown at which size, and where its tiles lie. */

export interface Point {
  x: number;
  y: number;
}

/** An icon is never shown smaller than this share of its own size (in CSS pixels) while a coarser grid exists. */
export const SMALLEST_SHARE = 0.5;

/** The finest grid whose icons are large enough on a map of this side (CSS pixels), else the coarsest. */
export function gridShown(grids: readonly number[], iconSize: number, side: number): number {
  const sorted = [...grids].sort((a, b) => b - a);
  // A hair of tolerance, so that a size that is exactly at the limit does not flicker between two levels.
  const limit = SMALLEST_SHARE * iconSize - 1e-6;
  return sorted.find((grid) => side / grid >= limit) ?? (sorted.at(-1) as number);
}

/** Number of the pyramid level that is `side` pixels wide: ⌈log₂ side⌉. */
export function topLevel(side: number): number {
  return Math.ceil(Math.log2(side));
}

/**
 * The grid that a level of the pyramid shows: each grid at its own level, and the coarsest one, made smaller,
 * on the levels below it.
 */
export function gridOfLevel(level: number, grids: readonly number[], iconSize: number): number {
  const sorted = [...grids].sort((a, b) => b - a);
  return sorted.find((grid) => topLevel(grid * iconSize) <= level) ?? (sorted.at(-1) as number);
}

/** The highest level that one tile holds as a whole and that is no wider than `side` pixels. */
export function thumbnailLevel(grids: readonly number[], iconSize: number, tileSize: number, side: number): number {
  const coarsest = Math.min(...grids) * iconSize;
  let level = topLevel(coarsest);
  let width = coarsest;
  while (level > 0 && width > Math.min(tileSize, side)) {
    width = Math.ceil(width / 2);
    level -= 1;
  }
  return level;
}

/** The details of cells, for the drawer: fetched in files of 4 × 4 cells. */

import { fetchJson, gridAddress, type AtlasMap } from './atlas';
import { PromiseCache } from './cache';
import type { CellRef } from './link';

interface Exemplar {
  image: string;
  /** Where the patch lies in the whole picture's sprite: left, top, right, bottom in shares of its side. */
  frame: [number, number, number, number];
  label: number | null;
  predicted: number;
  confidence: number;
  cosine: number;
  /** One of the nearest to the cell's mean; else one that shows how much the cell holds. */
  nearest: boolean;
}

interface CellDetails {
  row: number;
  col: number;
  scores: { cosine_whitened: number; cosine_robust: number; percentile: number; rank: number } | null;
  predicted: [number, number][];
  labels: [number, number][];
  /** Cells whose means are most like its own: row, column, cosine. */
  nearest_cells: [number, number, number][];
  /** For each other layer the cells that hold most of the same rows: grid, row, column, share. */
  cells_on_other_maps: Record<string, [number, number, number, number][]>;
  exemplars: Exemplar[];
}

/** A cell's details with its line in the sheet of sprites. */
export interface CellSheet {
  details: CellDetails;
  picture: string;
  /** The cell's line, and how many there are. */
  line: number;
  lines: number;
  /** Exemplars a line; the whole pictures stand in as many further columns. */
  columns: number;
}

/** Cells a side of a sheet. */
const BLOCK = 4;
const CACHE_SIZE = 40;

interface DetailsFile {
  sprite: number;
  columns: number;
  cells: CellDetails[];
}

const cache = new PromiseCache<DetailsFile>(CACHE_SIZE);

/** The details of a drawn cell; null where the sheet does not have it. */
export async function loadDetails(atlasMap: AtlasMap, place: CellRef): Promise<CellSheet | null> {
  const name = `${Math.floor(place.row / BLOCK)}-${Math.floor(place.col / BLOCK)}`;
  const address = `${gridAddress(atlasMap, place.grid)}/details/${name}`;
  const file = await cache.get(address, () => fetchJson(`${address}.json`) as Promise<DetailsFile>);
  const line = file.cells.findIndex((cell) => cell.row === place.row && cell.col === place.col);
  const details = file.cells[line];
  if (!details) return null;
  return { details, picture: `${address}.webp`, line, lines: file.cells.length, columns: file.columns };
}

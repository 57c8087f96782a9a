/** The details of cells, for the drawer: fetched in files of 4 × 4 cells. */

import { fetchJson, gridAddress, iconsAddress, type AtlasMap } from './atlas';
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
  predicted: [number, number][];
  labels: [number, number][];
  /** Cells whose means are most like its own: row, column, cosine. */
  nearest_cells: [number, number, number][];
  /** For each other layer the cells that hold most of the same rows: grid, row, column, share. */
  cells_on_other_maps: Record<string, [number, number, number, number][]>;
  exemplars: Exemplar[];
}

export interface IconScores {
  cosine_whitened: number;
  cosine_robust: number;
  percentile: number;
  rank: number;
}

/** A cell's details with its line in the sheet of sprites. */
export interface CellSheet {
  details: CellDetails;
  /** The further scores of its icon. */
  scores: IconScores | null;
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

/** Columns of all icons of a grid. */
type ScoresFile = Record<'row' | 'col' | keyof IconScores, number[]>;

const cache = new PromiseCache<DetailsFile>(CACHE_SIZE);
const scoresCache = new PromiseCache<ScoresFile>(CACHE_SIZE);

/** The details of a drawn cell; null where the sheet does not have it. */
export async function loadDetails(atlasMap: AtlasMap, place: CellRef): Promise<CellSheet | null> {
  const name = `${Math.floor(place.row / BLOCK)}-${Math.floor(place.col / BLOCK)}`;
  const address = `${gridAddress(atlasMap, place.grid)}/details/${name}`;
  const scoresAddress = `${iconsAddress(atlasMap, place.grid)}/scores.json`;
  const [file, scores] = await Promise.all([
    cache.get(address, () => fetchJson(`${address}.json`) as Promise<DetailsFile>),
    scoresCache.get(scoresAddress, () => fetchJson(scoresAddress) as Promise<ScoresFile>),
  ]);
  const line = file.cells.findIndex((cell) => cell.row === place.row && cell.col === place.col);
  const details = file.cells[line];
  if (!details) return null;
  return { details, scores: scoresOf(scores, place), picture: `${address}.webp`, line, lines: file.cells.length, columns: file.columns };
}

function scoresOf(file: ScoresFile, { row, col }: CellRef): IconScores | null {
  const index = file.row.findIndex((value, i) => value === row && file.col[i] === col);
  const [cosine_whitened, cosine_robust, percentile, rank] = [file.cosine_whitened[index], file.cosine_robust[index], file.percentile[index], file.rank[index]];
  if (cosine_whitened === undefined || cosine_robust === undefined || percentile === undefined || rank === undefined) return null;
  return { cosine_whitened, cosine_robust, percentile, rank };
}

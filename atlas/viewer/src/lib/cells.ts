/** The cells of one grid: columns in typed arrays, and a look-up by row and column. */

import { damagedFile, fetchBytes, fetchJson, iconsAddress, type AtlasMap } from './atlas';
import { PromiseCache } from './cache';
import type { Point } from './levels';

/** cells.json, a list for each column. */
export interface CellColumns {
  grid: number;
  row: number[];
  col: number[];
  count: number[];
  mean_cosine: number[];
  drawn: number[];
  cosine: (number | null)[];
  flag: (string | null)[];
  /** The largest attribution of each class, whatever its sign; not there where none were taken. */
  scale?: number[];
}

export interface Cell {
  grid: number;
  row: number;
  col: number;
  /** Its place in the columns. */
  index: number;
  count: number;
  mean_cosine: number;
  drawn: boolean;
  cosine: number | null;
  flag: string | null;
  classes: number[];
  values: number[];
}

/** Classes that classes.bin has of each cell; bytes of a value and its number. */
const TOP = 10;
const NO_CLASS = 65535;
const BYTES = 6;

export class Cells {
  readonly grid: number;
  readonly length: number;
  readonly row: Uint16Array;
  readonly col: Uint16Array;
  readonly count: Float64Array;
  readonly drawn: Uint8Array;
  readonly cosine: Float32Array;
  /** 1 where the icon is to be taken with care. */
  readonly flagged: Uint8Array;
  /** TOP classes of each cell, one cell after the other. */
  readonly topValues: Float32Array;
  readonly topClasses: Uint16Array;
  readonly scale: readonly number[];
  readonly #columns: CellColumns;
  readonly #index: Int32Array;

  constructor(columns: CellColumns, tops: ArrayBuffer) {
    const { grid, row, col } = columns;
    this.grid = grid;
    this.length = row.length;
    this.row = Uint16Array.from(row);
    this.col = Uint16Array.from(col);
    this.count = Float64Array.from(columns.count);
    this.drawn = Uint8Array.from(columns.drawn);
    this.cosine = Float32Array.from(columns.cosine, (value) => value ?? NaN);
    this.flagged = Uint8Array.from(columns.flag, (flag) => (flag === null ? 0 : 1));
    this.scale = columns.scale ?? [];
    this.topValues = new Float32Array(tops, 0, row.length * TOP);
    this.topClasses = new Uint16Array(tops, row.length * TOP * 4, row.length * TOP);
    this.#columns = columns;
    this.#index = new Int32Array(grid * grid).fill(-1);
    for (let i = 0; i < row.length; i++) this.#index[(this.row[i] as number) * grid + (this.col[i] as number)] = i;
  }

  /** The place in the columns of the cell at a row and column, or −1 where it is empty. */
  find(row: number, col: number): number {
    if (row < 0 || col < 0 || row >= this.grid || col >= this.grid) return -1;
    return this.#index[row * this.grid + col] as number;
  }

  /** The cell at a row and column, or null where it is empty. */
  at(row: number, col: number): Cell | null {
    const i = this.find(row, col);
    return i < 0 ? null : this.get(i);
  }

  get(index: number): Cell {
    const columns = this.#columns;
    const classes = [...this.topClasses.subarray(index * TOP, (index + 1) * TOP)].filter((index) => index !== NO_CLASS);
    return {
      grid: this.grid,
      row: this.row[index] as number,
      col: this.col[index] as number,
      index,
      count: this.count[index] as number,
      mean_cosine: columns.mean_cosine[index] as number,
      drawn: this.drawn[index] === 1,
      cosine: columns.cosine[index] ?? null,
      flag: columns.flag[index] ?? null,
      classes,
      values: [...this.topValues.subarray(index * TOP, index * TOP + classes.length)],
    };
  }

  /** The cell under a point of the map, or null outside it and on empty ground. */
  under(point: Point): Cell | null {
    const place = cellUnder(point, this.grid);
    return place && this.at(place.row, place.col);
  }

  /** Classes that each cell has. */
  static readonly classesPerCell = TOP;
}

/** Row and column of a point of the map ([0, 1]², x to the right, y down); null outside it. */
export function cellUnder(point: Point, grid: number): { row: number; col: number } | null {
  if (!(point.x >= 0 && point.x <= 1 && point.y >= 0 && point.y <= 1)) return null;
  const along = (value: number) => Math.min(Math.floor(value * grid), grid - 1);
  return { row: along(point.y), col: along(point.x) };
}

const cache = new PromiseCache<Cells>();

/** The cells of one grid of a map, fetched once; after a failure the next call tries again. */
export function loadCells(atlasMap: AtlasMap, grid: number): Promise<Cells> {
  const folder = iconsAddress(atlasMap, grid);
  return cache.get(folder, () => fetchCells(folder));
}

async function fetchCells(folder: string): Promise<Cells> {
  const [columns, tops] = await Promise.all([fetchJson(`${folder}/cells.json`), fetchBytes(`${folder}/classes.bin`)]);
  const cellColumns = columns as CellColumns;
  if (tops.byteLength !== cellColumns.row.length * TOP * BYTES) throw damagedFile(`${folder}/classes.bin`);
  return new Cells(cellColumns, tops);
}

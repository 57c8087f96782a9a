/** The cells of one grid: from columns to a look-up by row and column. */

import { fetchJson, gridAddress, type Layer } from './atlas';
import type { Point } from './levels';

export interface CellColumns {
  grid: number;
  row: number[];
  col: number[];
  count: number[];
  spread: number[];
  drawn: number[];
  cosine: (number | null)[];
  flag: (string | null)[];
  classes: number[][];
  values: number[][];
}

export interface Cell {
  grid: number;
  row: number;
  col: number;
  count: number;
  drawn: boolean;
  cosine: number | null;
  flag: string | null;
  classes: number[];
  values: number[];
}

export class Cells {
  readonly grid: number;
  readonly #columns: CellColumns;
  readonly #index = new Map<number, number>();

  constructor(columns: CellColumns) {
    this.grid = columns.grid;
    this.#columns = columns;
    columns.row.forEach((row, i) => this.#index.set(row * columns.grid + (columns.col[i] as number), i));
  }

  /** The cell at a row and column, or null where it is empty. */
  at(row: number, col: number): Cell | null {
    const i = this.#index.get(row * this.grid + col);
    if (i === undefined) return null;
    const columns = this.#columns;
    return {
      grid: this.grid,
      row,
      col,
      count: columns.count[i] ?? 0,
      drawn: columns.drawn[i] === 1,
      cosine: columns.cosine[i] ?? null,
      flag: columns.flag[i] ?? null,
      classes: columns.classes[i] ?? [],
      values: columns.values[i] ?? [],
    };
  }

  /** The cell under a point of the map, or null outside it and on empty ground. */
  under(point: Point): Cell | null {
    const place = cellUnder(point, this.grid);
    return place && this.at(place.row, place.col);
  }
}

/** Row and column of a point of the map ([0, 1]², x to the right, y down); null outside it. */
export function cellUnder(point: Point, grid: number): { row: number; col: number } | null {
  if (!(point.x >= 0 && point.x <= 1 && point.y >= 0 && point.y <= 1)) return null;
  const along = (value: number) => Math.min(Math.floor(value * grid), grid - 1);
  return { row: along(point.y), col: along(point.x) };
}

const loaded = new Map<string, Promise<Cells>>();

/** The cells of one grid of a layer, fetched once; after a failure the next call tries again. */
export function loadCells(layer: Layer, grid: number): Promise<Cells> {
  const address = `${gridAddress(layer, grid)}/cells.json`;
  let cells = loaded.get(address);
  if (!cells) {
    cells = fetchJson(address).then((columns) => new Cells(columns as CellColumns));
    cells.catch(() => loaded.delete(address));
    loaded.set(address, cells);
  }
  return cells;
}

/** The tiles of a map as OpenSeadragon needs them: icons, or real patches in their place. */

import { gridAddress, gridSizes, type Atlas, type AtlasMap } from './atlas';
import { gridOfLevel, thumbnailLevel, topLevel } from './levels';

export type TileKind = 'icons' | 'patches';

export interface TilePyramid {
  /** Distinguishes one pyramid from another. */
  id: string;
  side: number;
  tileSize: number;
  maxLevel: number;
  /** The level of the coarsest grid; the levels below are that grid made smaller. */
  coarsestLevel: number;
  tile(level: number, col: number, row: number): string;
}

/**
 * Icons and patches lie in a pyramid for each grid; a level has the same number in all, so each level's tiles are taken
 * from its own grid's pyramid: a grid that is published later adds levels, and changes none. With a fixed `level` all
 * come from that grid's.
 */
export function mapPyramid(atlas: Atlas, atlasMap: AtlasMap, picture: TileKind, level: number | null = null): TilePyramid {
  const grids = level === null ? gridSizes(atlasMap) : [level];
  const side = Math.max(...grids) * atlas.icon_size;
  const folder = (depth: number) => `${gridAddress(atlasMap, gridOfLevel(depth, grids, atlas.icon_size))}/${picture}_files`;
  return {
    id: `${atlasMap.path} ${picture} ${grids.join(' ')}`,
    side,
    tileSize: atlas.tile_size,
    maxLevel: topLevel(side),
    coarsestLevel: topLevel(Math.min(...grids) * atlas.icon_size),
    tile: (depth, col, row) => `${folder(depth)}/${depth}/${col}_${row}.webp`,
  };
}

/** The whole map as one picture, no wider than `side` pixels. */
export function thumbnail(atlas: Atlas, atlasMap: AtlasMap, picture: TileKind, side: number): string {
  const level = thumbnailLevel(gridSizes(atlasMap), atlas.icon_size, atlas.tile_size, side);
  return mapPyramid(atlas, atlasMap, picture).tile(level, 0, 0);
}

/** Where a cell's picture is: a tile, and a square in the tile's pixels. */
interface TileRect {
  address: string;
  left: number;
  top: number;
  side: number;
}

export function tileOfCell(
  atlas: Atlas,
  atlasMap: AtlasMap,
  picture: TileKind,
  cell: { grid: number; row: number; col: number },
): TileRect {
  const region = cellRegion(atlas, atlasMap, picture, cell);
  const along = (place: number, cells: number) => Math.round(place * (cells - 1)) * atlas.icon_size;
  return {
    address: region.address,
    left: along(region.x, region.width),
    top: along(region.y, region.height),
    side: atlas.icon_size,
  };
}

/** One cell's picture as a part of its tile, in the terms of a CSS background. */
export interface TileRegion {
  address: string;
  /** The tile's size, in cells. */
  width: number;
  height: number;
  /** Where the cell stands in the tile: 0 at the left or top edge, 1 at the right or bottom edge. */
  x: number;
  y: number;
}

export function cellRegion(
  atlas: Atlas,
  atlasMap: AtlasMap,
  picture: TileKind,
  cell: { grid: number; row: number; col: number },
): TileRegion {
  const perTile = atlas.tile_size / atlas.icon_size;
  const along = (index: number) => {
    const tile = Math.floor(index / perTile);
    const cells = Math.min(perTile, cell.grid - tile * perTile);
    return { tile, cells, place: cells > 1 ? (index - tile * perTile) / (cells - 1) : 0 };
  };
  const x = along(cell.col);
  const y = along(cell.row);
  const level = topLevel(cell.grid * atlas.icon_size);
  return {
    address: mapPyramid(atlas, atlasMap, picture).tile(level, x.tile, y.tile),
    width: x.cells,
    height: y.cells,
    x: x.place,
    y: y.place,
  };
}

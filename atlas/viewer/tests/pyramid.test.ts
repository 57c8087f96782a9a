import { describe, expect, it } from 'vitest';

import type { Atlas, AtlasMap } from '../src/lib/atlas';
import { cellRegion, mapPyramid, thumbnail, tileOfCell } from '../src/lib/pyramid';

const atlasMap: AtlasMap = {
  name: 'inception 4a',
  path: 'inception 4a',
  layer: 'inception 4a',
  network: 0,
  classes_shown: [],
  channels: 8,
  map_size: [14, 14],
  rows: 10,
  dropped: 0,
  grids: [10, 20, 40].map((grid) => ({ grid, cells: 1, drawn: 1, median_cosine: null, flagged: 0 })),
};
const atlas: Atlas = {
  format: 3,
  title: 'demo',
  networks: [{ name: 'net', input_size: 224, classes: [] }],
  icon_size: 80,
  tile_size: 640,
  attributions: true,
  classes_per_file: 50,
  labels: [],
  layers: [atlasMap],
  provenance: { images: 'pictures', views: 1, seed: 0, created: null, versions: {} },
  report: { layers: {} },
};

describe('layerSource', () => {
  it('takes each level of the icons from its own grid', () => {
    const source = mapPyramid(atlas, atlasMap, 'icons');
    expect(source).toMatchObject({ side: 3200, maxLevel: 12, coarsestLevel: 10 });
    expect(source.tile(12, 3, 4)).toBe('inception%204a/grid-040/icons_files/12/3_4.webp');
  });

  it('takes each level of the patches from its own grid', () => {
    const { tile } = mapPyramid(atlas, atlasMap, 'patches');
    expect(tile(12, 3, 4)).toBe('inception%204a/grid-040/patches_files/12/3_4.webp');
    expect(tile(11, 0, 1)).toBe('inception%204a/grid-020/patches_files/11/0_1.webp');
    expect(tile(4, 0, 0)).toBe('inception%204a/grid-010/patches_files/4/0_0.webp');
  });

  it('takes all levels of a grid that is chosen by hand from its own pyramid', () => {
    const source = mapPyramid(atlas, atlasMap, 'icons', 20);
    expect(source).toMatchObject({ side: 1600, maxLevel: 11, coarsestLevel: 11 });
    expect(source.tile(11, 1, 0)).toBe('inception%204a/grid-020/icons_files/11/1_0.webp');
    expect(source.tile(4, 0, 0)).toBe('inception%204a/grid-020/icons_files/4/0_0.webp');
    expect(source.id).not.toBe(mapPyramid(atlas, atlasMap, 'icons').id);
  });

  it('takes quick icons, but not patches, from a folder of their own until the icons are there', () => {
    const quick = { ...atlasMap, grids: atlasMap.grids.map((entry) => (entry.grid === 20 ? { ...entry, quick: true } : entry)) };
    const source = mapPyramid(atlas, quick, 'icons');
    expect(source.tile(12, 3, 4)).toBe('inception%204a/grid-040/icons_files/12/3_4.webp');
    expect(source.tile(11, 0, 1)).toBe('inception%204a/grid-020/quick/icons_files/11/0_1.webp');
    expect(source.id).not.toBe(mapPyramid(atlas, atlasMap, 'icons').id);
    expect(mapPyramid(atlas, quick, 'patches').tile(11, 0, 1)).toBe('inception%204a/grid-020/patches_files/11/0_1.webp');
    expect(mapPyramid(atlas, quick, 'patches').id).toBe(mapPyramid(atlas, atlasMap, 'patches').id);
  });

  it('knows where on its tile a cell is', () => {
    const place = tileOfCell(atlas, atlasMap, 'patches', { grid: 20, row: 15, col: 9 });
    expect(place).toEqual({ address: 'inception%204a/grid-020/patches_files/11/1_1.webp', left: 80, top: 560, side: 80 });
  });

  it('has a thumbnail in one tile', () => {
    expect(thumbnail(atlas, atlasMap, 'patches', 100)).toBe('inception%204a/grid-010/patches_files/7/0_0.webp');
  });
});

describe('cellPicture', () => {
  it('finds a cell inside its tile of eight by eight cells', () => {
    expect(cellRegion(atlas, atlasMap, 'icons', { grid: 20, row: 15, col: 8 })).toEqual({
      address: 'inception%204a/grid-020/icons_files/11/1_1.webp',
      width: 8,
      height: 8,
      x: 0,
      y: 1,
    });
  });

  it('knows that the last tile of a row is narrower', () => {
    // Grid 20: the third tile holds columns 16 to 19.
    expect(cellRegion(atlas, atlasMap, 'icons', { grid: 20, row: 0, col: 17 })).toMatchObject({ width: 4, x: 1 / 3 });
  });
});

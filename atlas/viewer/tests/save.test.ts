import { describe, expect, it } from 'vitest';

import type { Atlas, AtlasMap } from '../src/lib/atlas';
import { cellsTable } from '../src/lib/save';
import { wholeGrid } from './made_cells';

const atlasMap = { path: 'a,b', network: 0 } as AtlasMap;
const atlas = { attributions: true, networks: [{ name: 'net', input_size: 1, classes: ['tench, Tinca tinca', 'a "quoted" one'] }] } as unknown as Atlas;

describe('cellsTable', () => {
  it('has a line for each cell, quoted where that is needed', () => {
    const lines = cellsTable(atlas, atlasMap, wholeGrid(3, (row) => (row === 2 ? null : row)), [1, 3, 8]).split('\r\n');
    expect(lines).toHaveLength(5);
    expect(lines[0]?.startsWith('layer,grid,row,col,activations,mean_cosine,cosine,flag,class_1,attribution_1,class_2')).toBe(true);
    expect(lines[1]).toBe('"a,b",3,0,1,10,0.8,0.9,,"tench, Tinca tinca",0.5,,,,,,,,');
    expect(lines[2]).toBe('"a,b",3,1,0,10,0.8,0.9,,"a ""quoted"" one",0.5,,,,,,,,');
    expect(lines[3]).toBe('"a,b",3,2,2,10,0.8,,,,,,,,,,,,');
  });
});

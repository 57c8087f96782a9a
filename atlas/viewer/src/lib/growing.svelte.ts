/** An atlas that grows while the page is open: what is there stays the same object, so that nothing that shows it begins anew. */

import type { Atlas, AtlasMap, Grid } from './atlas';

// eslint-disable-next-line @typescript-eslint/no-unsafe-declaration-merging -- all but the levels are plain facts
interface GrowingMap extends AtlasMap {}

/** A map that may get further levels; what depends on them follows. */
class GrowingMap {
  grids = $state.raw<Grid[]>([]);

  constructor(facts: AtlasMap) {
    Object.assign(this, facts);
  }
}

/** An atlas whose maps may get further levels. */
export function growing(atlas: Atlas): Atlas {
  return { ...atlas, layers: atlas.layers.map((atlasMap) => new GrowingMap(atlasMap)) };
}

/** The next state of a growing atlas: its maps, networks and layers of units are those of before, and new ones beside them. */
export function grown(before: Atlas, next: Atlas): Atlas {
  const layers = next.layers.map((atlasMap) => {
    const known = before.layers.find(({ path }) => path === atlasMap.path);
    if (!known) return new GrowingMap(atlasMap);
    if (!isSame(known.grids, atlasMap.grids)) known.grids = atlasMap.grids;
    return known;
  });
  const units = next.neurons?.layers.map((entry) => before.neurons?.layers.find((known) => isSame(known, entry)) ?? entry);
  return {
    ...next,
    layers,
    networks: isSame(before.networks, next.networks) ? before.networks : next.networks,
    neurons: units ? { layers: units } : null,
  };
}

/** Whether all that an atlas shows is in the other one too; else that is of another run. */
export function holds(next: Atlas, before: Atlas): boolean {
  return before.layers.every((known) => {
    const there = next.layers.find(({ path }) => path === known.path);
    return known.grids.every(({ grid }) => there?.grids.some((entry) => entry.grid === grid));
  });
}

function isSame(one: unknown, other: unknown): boolean {
  return JSON.stringify(one) === JSON.stringify(other);
}

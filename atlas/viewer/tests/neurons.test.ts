import { describe, expect, it } from 'vitest';

import type { Atlas, UnitLayer } from '../src/lib/atlas';
import { PageState } from '../src/lib/page_state.svelte';
import { figureHeights, graphOf, isAbsent, nearestOf, ranksOf, sourcesOf, spaceOut, type DrawingSizes } from '../src/neurons/circuit';
import { iconOf, pictureOf, spriteOf, type Circuit, type CircuitSource, type Tuning, type UnitFacts, type UnitTable } from '../src/neurons/files';
import { centreOf, kernelMap, directionWords } from '../src/neurons/kernel';
import { listUnits, threeFigures } from '../src/neurons/order';
import { agreementWords, sourceWords, isTurned, linearisedWords } from '../src/neurons/words';

const table: UnitTable = {
  layer: 'late',
  units: 4,
  largest: [3, 0, 5, 1.5],
  mean: [0, 0, 0, 0],
  active_share: [0.5, 0, 0.02, 0.1],
  never_active: [0, 1, 0, 0],
  selectivity: [0.3, null, null, 0.4],
  invariance: [0.7, null, 0.9, 0.6],
  classes: [[[3, 0.2]], [], [[1, 0.5], [3, 0.7]], []],
  correlated: [[[2, 0.8], [3, 0.5]], [], [], []],
};

describe('listed', () => {
  const units = (query: Parameters<typeof listUnits>[1], effects: number[] = []) => listUnits(table, query, effects).map(({ unit, figure }) => [unit, figure]);

  it('puts units that have no figure behind all others', () => {
    expect(units({ order: 'strongest' })).toEqual([[2, '5.00'], [0, '3.00'], [3, '1.50'], [1, '–']]);
    expect(units({ order: 'invariant' })).toEqual([[2, '0.90'], [0, '0.70'], [3, '0.60'], [1, '–']]);
    expect(units({ order: 'selective' })).toEqual([[3, '0.40'], [0, '0.30'], [1, '–'], [2, '–']]);
    expect(units({ order: 'rare' })).toEqual([[2, '2.0 %'], [3, '10 %'], [0, '50 %'], [1, '–']]);
  });

  it('finds the units of a class by their effect, and those that are like one', () => {
    expect(units({ class: 3 }, [0.2, 0, 0.7, -0.1])).toEqual([[2, '+0.70'], [0, '+0.20'], [3, '−0.10'], [1, '–']]);
    expect(units({ like: 0 })).toEqual([[0, 'itself'], [2, '0.80'], [3, '0.50']]);
  });

  it('tells numbers by three figures', () => {
    expect([0, 12.345, -0.01234, 12345, 1e-5].map(threeFigures)).toEqual(['0', '12.3', '−0.0123', '1.2e+4', '1.0e-5']);
  });
});

const layers: UnitLayer[] = ['early', 'middle', 'late'].map((layer, i, all) => ({ layer, path: `neurons/${layer}`, units: 40, earlier: all.slice(0, i), icon: 64, across: 16 }));

describe('sprites', () => {
  it('stand on their line of the sheet; kinds without any have none', () => {
    const [, , late] = layers as [UnitLayer, UnitLayer, UnitLayer];
    expect(iconOf(late, 17)).toEqual({ address: 'neurons/late/icons.webp', columns: 16, lines: 3, column: 1, line: 1 });
    const facts = { unit: 7, pictures: 4, rows: { top: 9, whole: 9, spread: 0, rotated: 24, mirrored: 24, scaled: 5 } } as UnitFacts;
    expect(spriteOf(late, facts, 'rotated', 5)).toEqual({ address: 'neurons/late/unit-0007.webp', columns: 24, lines: 5, column: 5, line: 2 });
    expect(pictureOf(late, facts, 3)).toEqual({ address: 'neurons/late/unit-0007-pictures.webp', columns: 4, lines: 1, column: 3, line: 0 });
  });
});

const above = [0, 1, 0, 0, 0, 0, 0, 0, 0];
const below = [0, 0, 0, 0, 0, 0, 0, -1, 0];
const left = [0, 0, 0, 1, 0, 0, 0, 0, 0];

describe('kernels', () => {
  it('know where their weight lies, whatever its sign', () => {
    expect(centreOf(above, [3, 3])).toEqual({ x: 0, y: -1 });
    expect(centreOf(below, [3, 3])).toEqual({ x: 0, y: 1 });
    expect(centreOf(left, [3, 3])).toEqual({ x: -1, y: 0 });
    expect(centreOf([2], [1, 1])).toEqual({ x: 0, y: 0 });
    expect(centreOf([0, 0], [1, 2])).toEqual({ x: 0, y: 0 });
    expect([above, below, left].map((kernel) => directionWords(centreOf(kernel, [3, 3])))).toEqual(['above', 'below', 'to the left']);
    expect(directionWords({ x: 0.5, y: -0.5 })).toBe('above and to the right');
    expect(directionWords({ x: 0, y: 0.01 })).toBe('in the middle');
  });

  it('are drawn in their largest weight\'s terms, and coarser where they are large', () => {
    expect(kernelMap([0, 2, -1, 0], [2, 2])).toEqual({ rows: 2, cols: 2, squares: [{ row: 0, col: 1, value: 1 }, { row: 1, col: 0, value: -0.5 }] });
    const large = kernelMap(Array<number>(900).fill(1), [30, 30]);
    expect([large.rows, large.cols, large.squares.length]).toEqual([15, 15, 225]);
    expect(kernelMap([0, 0], [1, 2]).squares).toEqual([]);
  });
});

const source = (unit: number, effect: number, weight: number, kernel: number[]): CircuitSource => ({ unit, effect, weight, linear_weight: 0, kernel, reliability: 1 });
const circuit = (layer: string, sources: CircuitSource[]): Circuit => ({ layer, agreement: 0.9, nonlinearities: [], note: null, kernel: [3, 3], sources });
const SIZES: DrawingSizes = { icon: 50, root: 100, kernel: 30, gap: 4, row: 70, column: 250, margin: 10 };

describe('graphOf', () => {
  const near = circuit('middle', [source(1, 0.8, 0.1, below), source(2, -0.4, -0.5, above), source(3, 0.1, 0.2, left)]);
  const early = circuit('early', [source(9, 0.5, 0.5, above), source(8, 0.4, 0.4, below)]);
  const draw = (openSources: [string, Circuit[]][] = [], by: 'effect' | 'weight' = 'effect', cut = 0.2) =>
    graphOf({
      root: { layer: 'late', unit: 7 },
      circuit: near,
      openSources: new Map(openSources.map(([key, circuit]) => [key, { circuit } as UnitFacts])),
      layers,
      by,
      cut,
      sizes: SIZES,
    });
  const at = (graph: ReturnType<typeof draw>, key: string) => graph.nodes.find((node) => node.key === key) as (typeof graph.nodes)[number];

  it('leaves out what is weak beside the strongest, by either figure', () => {
    expect(sourcesOf(near, 'effect', 0.2).map(({ unit }) => unit)).toEqual([1, 2]);
    expect(sourcesOf(near, 'weight', 0.3).map(({ unit }) => unit)).toEqual([2, 3]);
    expect(sourcesOf(near, 'effect', 0).map(({ unit }) => unit)).toEqual([1, 2, 3]);
  });

  it('knows what acts when it is below 0, in the data alone', () => {
    const of = (effect: number, effect_above_zero?: number) => ({ ...source(1, effect, 1, above), effect_above_zero }) as CircuitSource;
    expect([of(1), of(1, 0.6), of(1, 0.4), of(1, -0.1), of(-1, -0.2), of(-1, -0.9)].map(isAbsent)).toEqual([false, false, true, true, true, false]);
    const absent = { ...near, sources: near.sources.map((source) => ({ ...source, effect_above_zero: 0 })) };
    const graph = (by: 'effect' | 'weight') => graphOf({ root: { layer: 'late', unit: 7 }, circuit: absent, openSources: new Map(), layers, by, cut: 0, sizes: SIZES });
    expect(graph('effect').edges.map((edge) => edge.absent)).toEqual([true, true, true]);
    expect(graph('weight').edges.map((edge) => edge.absent)).toEqual([false, false, false]);
    expect([sourceWords(1, false, 7), sourceWords(1, true, 7), sourceWords(-1, false, 7), sourceWords(-1, true, 7)]).toEqual([
      'builds unit 7',
      'builds unit 7 when it is below 0',
      'inhibits unit 7',
      'inhibits unit 7 when it is below 0',
    ]);
  });

  it('puts above what lies above, and earlier layers to the left', () => {
    const graph = draw();
    expect(at(graph, 'middle:2').y).toBeLessThan(at(graph, 'middle:1').y);
    expect(at(graph, 'middle:1').y - at(graph, 'middle:2').y).toBeGreaterThanOrEqual(SIZES.row);
    expect(at(graph, 'middle:1').x).toBeLessThan(at(graph, 'late:7').x - SIZES.column / 2);
    expect(graph.edges.map(({ from, to, value, share }) => [from.key, to.key, value, share])).toEqual([
      ['middle:1', 'late:7', 0.8, 1],
      ['middle:2', 'late:7', -0.4, 0.5],
    ]);
    expect(graph.nodes.every(({ x, y }) => x > 0 && y > 0 && x < graph.width && y < graph.height)).toBe(true);
  });

  it('puts what is neither above nor below between, the strongest first', () => {
    expect(ranksOf([0.01, 0.5, -0.05, -0.3, 0.05, -0.9])).toEqual([2, 5, 3, 1, 4, 0]);
    const high = [0, 1, 0, 0, 0.95, 0, 0, 0.9, 0]; // hardly above the middle
    const all = circuit('middle', [source(1, 0.9, 1, left), source(2, 0.8, 1, high), source(3, 0.7, 1, below), source(4, 0.6, 1, left), source(5, 0.5, 1, above)]);
    const graph = graphOf({ root: { layer: 'late', unit: 7 }, circuit: all, openSources: new Map(), layers, by: 'effect', cut: 0, sizes: SIZES });
    const sources = graph.nodes.filter(({ depth }) => depth === 1).sort((one, other) => one.y - other.y);
    expect(sources.map(({ unit }) => unit.unit)).toEqual([5, 1, 2, 4, 3]);
    expect((sources[0] as (typeof sources)[number]).x).toBeGreaterThan((sources[1] as (typeof sources)[number]).x);
  });

  it('goes further back where a source is opened; what builds two units stands once', () => {
    const graph = draw([['middle:1', [early]], ['middle:2', [early]]]);
    expect(graph.nodes.map(({ key, depth }) => [key, depth])).toEqual([['late:7', 0], ['middle:1', 1], ['middle:2', 1], ['early:9', 2], ['early:8', 2]]);
    expect(graph.edges.filter(({ from }) => from.key === 'early:9').map(({ to }) => to.key)).toEqual(['middle:1', 'middle:2']);
    expect(at(graph, 'early:9').x).toBeLessThan(at(graph, 'middle:1').x);
    expect(at(graph, 'early:9').y).toBeLessThan(at(graph, 'early:8').y);
  });

  it('names the layer of each column above its highest icon', () => {
    const graph = draw([['middle:1', [early]]]);
    expect(graph.columns.map(({ layer }) => layer)).toEqual(['middle', 'early']);
    graph.columns.forEach(({ layer, y }) => {
      const tops = graph.nodes.filter(({ unit }) => unit.layer === layer).map((node) => node.y - SIZES.icon / 2);
      expect(y).toBeCloseTo(Math.min(...tops) - 10);
      expect(y).toBeGreaterThan(10);
    });
  });

  it('keeps the figures of one source apart', () => {
    expect(figureHeights(100, [40], [2], 0.3)).toEqual([113]); // its line bends up
    expect(figureHeights(100, [100], [2], 0.3)).toEqual([95]);
    const heights = figureHeights(100, [60, 50, 200], [1, 1, 1], 0.3);
    expect((heights[0] as number) - (heights[1] as number)).toBeCloseTo(14);
    expect((heights[2] as number) - (heights[0] as number)).toBeGreaterThanOrEqual(14);
  });

  it('begins with the nearest of the earlier layers', () => {
    expect(nearestOf([early, near], layers)).toBe(near);
    expect(nearestOf([], layers)).toBeUndefined();
  });

  it('keeps places apart, in their order', () => {
    const expected = [-10 / 3, 20 / 3, 290 / 3]; // where they are wanted in the mean
    spaceOut([0, 0, 100], 10, 30).forEach((place, i) => expect(place).toBeCloseTo(expected[i] as number));
    expect(spaceOut([50], 10, 0)).toEqual([5]); // a single one is off the middle only a little
    const places = spaceOut([5, 0, 5.5], 10, 4);
    expect((places[0] as number) - (places[1] as number)).toBeCloseTo(10);
    expect((places[2] as number) - (places[0] as number)).toBeCloseTo(10);
  });
});

describe('words', () => {
  it('tell a preferred angle only where it is clearly not upright', () => {
    const of = (preferred_angle: number | null, selectivity: number | null = 0.4) => isTurned({ preferred_angle, selectivity } as Tuning);
    expect([of(90), of(31), of(-45), of(320), of(0), of(30), of(335), of(null), of(90, 0.04), of(90, null)]).toEqual([true, true, true, true, false, false, false, false, false, false]);
  });

  it('warn where weights and data disagree', () => {
    expect(agreementWords(circuit('a', []))).toEqual({ text: 'The weights agree well with what happens in the data: 0.90 of 1 (correlation).', low: false });
    const low = agreementWords({ ...circuit('a', []), agreement: 0.11 });
    expect(low.low).toBe(true);
    expect(low.text).toContain('hardly agree');
    expect(linearisedWords(['12 ReLU6', '1 max-pooling as average'])).toBe('On the way these were taken as linear: 12 ReLU6 and 1 max-pooling as average.');
    expect(linearisedWords([])).toContain('exact');
  });
});

describe('PageState', () => {
  const map = (path: string) => ({ name: path, path, layer: path, network: 0, classes_shown: [], channels: 40, map_size: [7, 7], rows: 1, dropped: 0, grids: [] });
  const atlas = { attributions: true, networks: [{ classes: ['a', 'b'] }], layers: ['early', 'late'].map(map), neurons: { layers } } as unknown as Atlas;

  it('lights up a unit or classes, never both, and a unit only on its own map', () => {
    const pageState = new PageState(atlas, { mapName: 'early', classes: ['b'] });
    pageState.lightUp({ layer: 'late', unit: 7 });
    expect([pageState.atlasMap.path, pageState.classes, pageState.litUnit]).toEqual(['late', [], { layer: 'late', unit: 7 }]);
    pageState.classes = [0];
    expect(pageState.litUnit).toBeNull();
    pageState.lightUp({ layer: 'late', unit: 7 });
    pageState.switchTo(atlas.layers[0] as Atlas['layers'][number]);
    expect([pageState.litUnit, pageState.classes]).toEqual([null, []]);
  });

  it('says which unit of a link it does not have', () => {
    const pageState = new PageState(atlas, { unit: { layer: 'late', unit: 40 }, lit: { layer: 'gone', unit: 1 }, neurons: 'lost' });
    expect(pageState.missingNames).toEqual(['unit 40 of late', 'unit 1 of gone']);
    expect([pageState.neurons, pageState.litUnit]).toEqual([{ layer: 'late', unit: null, circuit: false, filter: null }, null]);
    expect(new PageState(atlas, { neurons: 'lost' }).missingNames).toEqual(['units of lost']);
  });

  it('opens on the layer that the run names, else on the middle one', () => {
    expect(new PageState(atlas, {}).atlasMap.path).toBe('late');
    expect(new PageState({ ...atlas, opening_map: 'early' }, {}).atlasMap.path).toBe('early');
    expect(new PageState({ ...atlas, opening_map: 'early' }, { mapName: 'late' }).atlasMap.path).toBe('late');
  });

  it('keeps the class of the list in the link and in other layers', () => {
    const pageState = new PageState(atlas, { neurons: 'late', for: 'B' });
    expect(pageState.neurons?.filter).toEqual({ class: 1 });
    pageState.openUnits('early', null);
    expect(pageState.historyKey).toContain('neurons=early&for=b');
    pageState.neurons = { layer: 'late', unit: null, circuit: false, filter: { like: 7 } };
    expect(pageState.historyKey).toContain('neurons=late&like=7');
    pageState.openUnits('late', 8);
    expect(pageState.neurons.filter).toEqual({ like: 7 });
    pageState.openUnits('early', null);
    expect(pageState.neurons.filter).toBeNull();
    expect(new PageState(atlas, { neurons: 'late', for: 'c' }).missingNames).toEqual(['class c']);
    expect(new PageState(atlas, { neurons: 'late', like: 40 }).neurons?.filter).toBeNull();
  });

  it('makes each view a step of its own', () => {
    const pageState = new PageState(atlas, {});
    const steps = new Set([pageState.historyKey]);
    for (const next of [{ layer: 'late', unit: null, circuit: false }, { layer: 'late', unit: 7, circuit: false }, { layer: 'late', unit: 7, circuit: true }]) {
      pageState.neurons = next;
      steps.add(pageState.historyKey);
    }
    expect(steps.size).toBe(4);
    expect(pageState.historyKey).toContain('unit=late%3A7&show=circuit');
  });
});

/** A circuit as a graph: which units of earlier layers build a unit, and where they stand on the drawing. */

import type { UnitLayer } from '../lib/atlas';
import type { Unit } from '../lib/link';
import type { Circuit, CircuitSource, UnitFacts } from './files';
import { centreOf, CLEAR } from './kernel';

/** What sources are ordered by: what they did in the data, or the expanded weights. */
export type EdgeMeasure = 'effect' | 'weight';

/** Layers of sources behind the unit. */
export const DEEPEST = 3;

export interface CircuitNode {
  key: string;
  unit: Unit;
  /** 0: the unit itself; 1: its sources; … */
  depth: number;
  /** The middle of its icon. */
  x: number;
  y: number;
}

export interface CircuitEdge {
  source: CircuitSource;
  circuit: Circuit;
  from: CircuitNode;
  to: CircuitNode;
  value: number;
  /** Its effect comes mainly from where the source is below 0. */
  absent: boolean;
  /** Its size beside the strongest of the same unit, 0 to 1. */
  share: number;
  /** Where it ends at the unit that it builds, above or below the middle of its icon. */
  end: number;
}

/** A column of sources, which are all of one layer. */
export interface CircuitColumn {
  layer: string;
  /** Where its layer's name begins. */
  x: number;
  y: number;
}

export interface CircuitGraph {
  nodes: CircuitNode[];
  edges: CircuitEdge[];
  columns: CircuitColumn[];
  width: number;
  height: number;
}

/** Sizes of a drawing in CSS pixels. */
export interface DrawingSizes {
  icon: number;
  root: number;
  kernel: number;
  gap: number;
  /** Between two sources, from middle to middle. */
  row: number;
  /** From a column's left edge to that of the next. */
  column: number;
  margin: number;
}

function keyOf({ layer, unit }: Unit): string {
  return `${layer}:${unit}`;
}

/** The nearest earlier layer: the one that has most layers before it. */
export function nearestOf(circuits: readonly Circuit[], layers: readonly UnitLayer[]): Circuit | undefined {
  const before = ({ layer }: Circuit) => layers.find((entry) => entry.layer === layer)?.earlier.length ?? 0;
  return circuits.reduce<Circuit | undefined>((best, circuit) => (!best || before(circuit) > before(best) ? circuit : best), undefined);
}

/** Whether a source acts mainly where its activation is below 0, where it sees the opposite of its picture. */
export function isAbsent({ effect, effect_above_zero = effect }: CircuitSource): boolean {
  return Math.abs(effect_above_zero) < Math.abs(effect - effect_above_zero);
}

/** The sources that are at least a share (`cut`) of the strongest, the strongest first. */
export function sourcesOf(circuit: Circuit, by: EdgeMeasure, cut: number): CircuitSource[] {
  const largest = Math.max(0, ...circuit.sources.map((source) => Math.abs(source[by])));
  const sources = circuit.sources.filter((source) => source[by] !== 0 && Math.abs(source[by]) >= cut * largest);
  return sources.sort((one, other) => Math.abs(other[by]) - Math.abs(one[by]));
}

/**
 * The graph of a unit's circuit, later layers to the right. Sources keep their place: those whose kernel's weight clearly
 * lies above the unit's own place stand above the others, those below stand below, and between them the others stand, the
 * strongest first. One whose weight clearly lies to the left stands a little to the left.
 */
export function graphOf({
  root,
  circuit,
  openSources,
  layers,
  by,
  cut,
  sizes,
}: {
  root: Unit;
  circuit: Circuit;
  /** Sources whose own sources are shown, by their keys. */
  openSources: ReadonlyMap<string, UnitFacts>;
  layers: readonly UnitLayer[];
  by: EdgeMeasure;
  cut: number;
  sizes: DrawingSizes;
}): CircuitGraph {
  const first: CircuitNode = { key: keyOf(root), unit: root, depth: 0, x: 0, y: 0 };
  const nodes = [first];
  const edges: CircuitEdge[] = [];
  let targets: [CircuitNode, Circuit][] = [[first, circuit]];
  for (let depth = 1; depth <= DEEPEST && targets.length; depth++) {
    const column = new Map<string, { node: CircuitNode; heights: number[]; sides: number[] }>();
    for (const [target, targetCircuit] of targets) {
      const sources = sourcesOf(targetCircuit, by, cut);
      const largest = Math.abs(sources[0]?.[by] ?? 0);
      const centres = sources.map((source) => centreOf(source.kernel, targetCircuit.kernel));
      const ranks = ranksOf(centres.map(({ y }) => y));
      const side = Math.max(LEAST_REACH, ...centres.map(({ x }) => Math.abs(x)));
      sources.forEach((source, i) => {
        const unit = { layer: targetCircuit.layer, unit: source.unit };
        const key = keyOf(unit);
        const place = column.get(key) ?? { node: { key, unit, depth, x: 0, y: 0 }, heights: [], sides: [] };
        const centre = centres[i] as { x: number; y: number };
        place.heights.push(target.y + ((ranks[i] as number) - (sources.length - 1) / 2) * sizes.row);
        place.sides.push(Math.abs(centre.x) > CLEAR ? centre.x / side : 0);
        column.set(key, place);
        edges.push({
          source,
          circuit: targetCircuit,
          from: place.node,
          to: target,
          value: source[by],
          absent: by === 'effect' && isAbsent(source), // weights are the same whatever the data
          share: largest > 0 ? Math.abs(source[by]) / largest : 0,
          end: 0,
        });
      });
    }
    const places = [...column.values()];
    const middle = mean(targets.map(([target]) => target.y));
    const ys = spaceOut(places.map(({ heights }) => mean(heights)), sizes.row, middle);
    places.forEach(({ node, sides }, i) => {
      node.y = ys[i] as number;
      node.x = mean(sides) * SIDE_SHIFT;
      nodes.push(node);
    });
    targets = places.flatMap(({ node }) => {
      const next = nearestOf(openSources.get(node.key)?.circuit ?? [], layers);
      return next ? [[node, next] as [CircuitNode, Circuit]] : [];
    });
  }
  return drawingOf(nodes, edges, sizes);
}

/** Kernels that are less off their middle than this, as a share of their half, do not stand fully to one side. */
const LEAST_REACH = 0.15;
/** Pixels that a source stands to the left or right for its weight's place. */
const SIDE_SHIFT = 12;

/** From the top: what clearly lies above, the highest first; the others in their order; what clearly lies below. */
export function ranksOf(heights: readonly number[]): number[] {
  const group = (y: number) => (y < -CLEAR ? -1 : y > CLEAR ? 1 : 0);
  const order = heights.map((y, i) => ({ y, i }));
  order.sort((one, other) => group(one.y) - group(other.y) || (group(one.y) === 0 ? one.i - other.i : one.y - other.y));
  const ranks = new Array<number>(heights.length);
  order.forEach(({ i }, rank) => (ranks[i] = rank));
  return ranks;
}

/**
 * Places near to the wanted ones, in their order and never nearer to each other than `least`; their mean is no further than
 * half of that from the middle.
 */
export function spaceOut(targets: readonly number[], least: number, middle: number): number[] {
  const order = targets.map((_, i) => i).sort((one, other) => (targets[one] as number) - (targets[other] as number));
  const places = new Array<number>(targets.length);
  let last = -Infinity;
  for (const i of order) {
    last = Math.max(targets[i] as number, last + least);
    places[i] = last;
  }
  const goal = Math.min(middle + least / 2, Math.max(middle - least / 2, mean(targets)));
  const off = goal - mean(places);
  return places.map((place) => place + off);
}

function mean(values: readonly number[]): number {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : 0;
}

/** Set the graph on a drawing whose corner is its top left. */
function drawingOf(nodes: CircuitNode[], edges: CircuitEdge[], sizes: DrawingSizes): CircuitGraph {
  const deepest = Math.max(...nodes.map(({ depth }) => depth));
  const size = (node: CircuitNode) => (node.depth === 0 ? sizes.root : sizes.icon);
  const top = Math.min(...nodes.map((node) => node.y - size(node) / 2));
  const bottom = Math.max(...nodes.map((node) => node.y + size(node) / 2));
  for (const node of nodes) {
    node.y += sizes.margin + HEAD - top;
    node.x += sizes.margin + SIDE_SHIFT + (deepest - node.depth) * sizes.column + size(node) / 2;
  }
  // Arrows end beside each other at the icon's edge, in the order in which they come.
  for (const node of nodes) {
    const ends = edges.filter(({ to }) => to === node).sort((one, other) => one.from.y - other.from.y);
    const step = Math.min(9, (size(node) - 8) / Math.max(1, ends.length - 1));
    ends.forEach((edge, i) => (edge.end = (i - (ends.length - 1) / 2) * step));
  }
  return {
    nodes,
    edges,
    columns: columnsOf(nodes, sizes),
    width: 2 * (sizes.margin + SIDE_SHIFT) + deepest * sizes.column + sizes.root,
    height: bottom - top + 2 * sizes.margin + HEAD + LABEL,
  };
}

/** The name of each column's layer stands above its highest icon. */
function columnsOf(nodes: readonly CircuitNode[], sizes: DrawingSizes): CircuitColumn[] {
  const columns = new Map<number, CircuitColumn>();
  for (const { unit, depth, x, y } of nodes) {
    if (depth === 0) continue;
    const [left, above] = [x - sizes.icon / 2, y - sizes.icon / 2 - 10];
    const former = columns.get(depth);
    columns.set(depth, { layer: unit.layer, x: Math.min(left, former?.x ?? left), y: Math.min(above, former?.y ?? above) });
  }
  return [...columns.values()];
}

/**
 * Where the figures of a source's lines stand, by the places at which the lines end: that of one alone on the side from which
 * its line bends away, those of several on their own lines, a little on their way (`share`) and never over each other.
 */
export function figureHeights(start: number, ends: readonly number[], thick: readonly number[], share: number): number[] {
  if (ends.length === 1) {
    const off = (thick[0] as number) / 2;
    return [(ends[0] as number) < start - 4 ? start + 12 + off : start - 4 - off];
  }
  const targets = ends.map((end) => start + (end - start) * share);
  return spaceOut(targets, FIGURE, mean(targets)).map((y) => y + 4);
}

/** Pixels from one figure's line to the next. */
const FIGURE = 14;
/** Pixels for the layers' names above the columns. */
const HEAD = 20;
/** Pixels for the names below an icon. */
const LABEL = 32;

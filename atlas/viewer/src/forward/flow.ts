/** Where the steps of a layer stand, and the lines between what writes a map and what reads it. */

import type { Step } from './pass';

export interface FlowNode {
  step: number;
  /** Comes from before the layer. */
  outside: boolean;
  column: number;
  lane: number;
}

export interface FlowEdge {
  from: FlowNode;
  to: FlowNode;
  /** Goes over the steps between, which stand in its way. */
  over: boolean;
}

/** Steps stand right of all that they read; a step keeps to the line of the first that it reads, where it is free. */
export function layOut(steps: readonly Step[]): { nodes: FlowNode[]; edges: FlowEdge[]; columns: number; lanes: number } {
  const inside = new Map(steps.map((step) => [step.step, step]));
  const outside = [...new Set(steps.flatMap((step) => step.reads).filter((read) => !inside.has(read)))];
  const nodes = new Map<number, FlowNode>();
  const occupied = new Set<string>();
  const put = (step: number, column: number, firstLane: number, isOutside: boolean) => {
    let lane = firstLane;
    while (occupied.has(`${column} ${lane}`)) lane++;
    occupied.add(`${column} ${lane}`);
    nodes.set(step, { step, outside: isOutside, column, lane });
  };
  outside.forEach((step, index) => put(step, 0, index, true));
  const first = outside.length ? 1 : 0;
  for (const step of [...steps].sort((one, other) => one.step - other.step)) {
    const sources = step.reads.map((read) => nodes.get(read)).filter((node): node is FlowNode => node !== undefined);
    const column = Math.max(first, ...sources.map((source) => source.column + 1));
    // A step that joins several stands in the uppermost line of them; a line that is passed on stays free.
    put(step.step, column, Math.min(...(sources.length ? sources.map((source) => source.lane) : [0])), false);
    const lane = nodes.get(step.step)?.lane ?? 0;
    const from = Math.max(0, ...sources.map((source) => source.column));
    for (let between = from + 1; between < column; between++) occupied.add(`${between} ${lane}`);
  }
  const all = [...nodes.values()];
  const edges = steps.flatMap((step) =>
    step.reads.flatMap((read) => {
      const [from, to] = [nodes.get(read), nodes.get(step.step)];
      if (!from || !to) return [];
      const over = from.lane === to.lane && all.some((node) => node.lane === from.lane && node.column > from.column && node.column < to.column);
      return [{ from, to, over }];
    }),
  );
  return {
    nodes: all,
    edges,
    columns: Math.max(0, ...all.map((node) => node.column + 1)),
    lanes: Math.max(0, ...all.map((node) => node.lane + 1)),
  };
}

/** The class head of the network: from its last maps to the scores (logits), and from these to shares (softmax). */

import { isMap, type Pass, type Step } from './pass';
import { stepTitle } from './words';

interface ClassHead {
  /** The linear step that the scores come of, with at most some scaling behind it. */
  linear: Step | null;
  /** The steps behind the linear one, each of one input, in the order in which they run. */
  behind: readonly Step[];
  /** The step whose maps are averaged to the numbers that the linear step reads, channel by channel. */
  pooled: Step | null;
}

const SCALINGS = ['multiply', 'add', 'batch_norm', 'reshape', 'activation'];

/** The class head: followed back from the scores as long as each step reads one other. */
export function classHeadOf(pass: Pass): ClassHead {
  const behind: Step[] = [];
  let step = pass.steps[pass.output.step];
  const classes = step?.shape[0];
  while (step && step.kind !== 'linear' && SCALINGS.includes(step.kind) && step.reads.length === 1) {
    const before: Step | undefined = pass.steps[step.reads[0] ?? -1];
    if (before?.shape[0] !== classes || numbers(before) !== classes) break;
    behind.unshift(step);
    step = before;
  }
  if (step?.kind !== 'linear') return { linear: null, behind: [], pooled: null };
  return { linear: step, behind, pooled: pooledStepOf(step, pass) };
}

function pooledStepOf(linear: Step, pass: Pass): Step | null {
  let step = pass.steps[linear.reads[0] ?? -1];
  const channels = step?.shape[0];
  const vector = (candidate: Step | undefined) => candidate !== undefined && candidate.shape[0] === channels && numbers(candidate) === channels;
  while (step?.kind === 'reshape' && vector(step) && step.reads.length === 1) step = pass.steps[step.reads[0] ?? -1];
  if (step?.kind !== 'average_pool' || !vector(step)) return null;
  const read = pass.steps[step.reads[0] ?? -1];
  return read && isMap(read) && read.shape[0] === channels ? read : null;
}

function numbers(step: Step | undefined): number {
  return step?.shape.reduce((product, side) => product * side, 1) ?? 0;
}

/** How the scores are computed, in a few words. */
export function classHeadWords(pass: Pass): string {
  const { linear, behind, pooled } = classHeadOf(pass);
  const output = pass.steps[pass.output.step];
  if (!linear) return output ? `the last step: ${stepTitle(output, pass)}` : '';
  const product = pooled ? 'pooled features × class weights' : 'features × class weights';
  const after = behind.filter(({ kind }) => kind !== 'reshape').map((step) => stepTitle(step, pass));
  return after.length ? `${product}, then ${after.join(', ')}` : product;
}

/** Whether a number is the mean of a map, but for the rounding of float32. */
export function isMeanOf(value: number, map: Float32Array): boolean {
  let [sum, sizes] = [0, 0];
  for (const entry of map) {
    sum += entry;
    sizes += Math.abs(entry);
  }
  return map.length > 0 && Math.abs(value - sum / map.length) <= (1e-4 * sizes) / map.length;
}

interface Softmax {
  /** e to the power of each score less the largest, which no score makes too large a number. */
  powers: readonly number[];
  shares: readonly number[];
  /** What is left for all other classes. */
  others: number;
  /** The sum of the powers over all classes. */
  whole: number;
  /** The largest difference to the network's own shares. */
  largestDifference: number;
}

/** The softmax worked out from the scores; null where the server gives no sum over all classes. */
export function softmaxOf(output: Pass['output']): Softmax | null {
  const all = output.log_sum;
  if (all === undefined || all === null) return null;
  const largest = Math.max(...output.classes.map(({ logit }) => logit));
  const shares = output.classes.map(({ logit }) => Math.exp(logit - all));
  const others = 1 - shares.reduce((sum, share) => sum + share, 0);
  const differences = output.classes.map(({ probability }, index) => Math.abs((shares[index] as number) - probability));
  return {
    powers: output.classes.map(({ logit }) => Math.exp(logit - largest)),
    shares,
    others,
    whole: Math.exp(all - largest),
    largestDifference: Math.max(...differences, Math.abs(others - output.others)),
  };
}

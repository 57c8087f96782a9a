/** Maps as small pictures. 0 is the ground; orange is above it, blue below; where nothing is below 0, ink. */

import { OPPOSE, SUPPORT } from '../lib/heat';
import type { Step } from './pass';

/** `light` is for the picture's own channels: dark to light, as a photograph. */
export type Tone = 'ink' | 'signed' | 'light';

/** How all maps of a step are drawn: by what it does, so that the channels of a step look alike. */
export function toneOf(step: Step, steps: readonly Step[]): Tone {
  if (step.kind === 'input') return 'light';
  return isPositive(step, steps) ? 'ink' : 'signed';
}

/** Whether nothing that the step gives can be below 0. */
function isPositive(step: Step, steps: readonly Step[]): boolean {
  if (step.kind === 'activation') return /^(relu|sigmoid|hard ?sigmoid|softmax|softplus)/i.test(step.operation);
  if (!['add', 'multiply', 'concatenate', 'max_pool', 'average_pool', 'reshape'].includes(step.kind)) return false;
  return step.reads.length > 0 && step.reads.every((read) => steps[read] !== undefined && isPositive(steps[read], steps));
}

export function largest(values: ArrayLike<number | null>): number {
  let most = 0;
  for (let i = 0; i < values.length; i++) most = Math.max(most, Math.abs(values[i] as number) || 0);
  return most;
}

/** The pixels (RGBA) of a map; what is not a number stays clear. */
export function pixels(values: Float32Array, tone: Tone, scale = largest(values)): Uint8ClampedArray<ArrayBuffer> {
  const out = new Uint8ClampedArray(4 * values.length);
  const [low, high] = tone === 'light' ? [Math.min(...values), Math.max(...values)] : [0, 0];
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    if (Number.isNaN(value)) continue;
    const grey = tone === 'light' ? (255 * (value - low)) / (high - low || 1) : 0;
    const [red, green, blue] = tone === 'signed' ? (value < 0 ? OPPOSE : SUPPORT) : [grey, grey, grey];
    out.set([red, green, blue, tone === 'light' ? 255 : (255 * Math.abs(value)) / (scale || 1)], 4 * i);
  }
  return out;
}

/** The picture's three channels as colours again. */
export function photograph(channels: readonly Float32Array[], mean: readonly number[], std: readonly number[]): Uint8ClampedArray<ArrayBuffer> {
  const out = new Uint8ClampedArray(4 * (channels[0]?.length ?? 0)).fill(255);
  channels.forEach((values, channel) => {
    for (let i = 0; i < values.length; i++) out[4 * i + channel] = 255 * ((values[i] as number) * (std[channel] ?? 1) + (mean[channel] ?? 0));
  });
  return out;
}

/** Row and column of the largest size of a map. */
export function peak(values: Float32Array, cols: number): [number, number] {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (Math.abs(values[i] as number) > Math.abs(values[best] as number)) best = i;
  return [Math.floor(best / cols), best % cols];
}

/** The server's answers about a forward pass, and the client that requests them. Every failure is a UserError. */

import { decodePicture } from '../image/sheet';
import { json, channelIcons, post, type TopClass } from '../lib/api';

export type OperationKind =
  | 'input'
  | 'convolution'
  | 'linear'
  | 'add'
  | 'multiply'
  | 'concatenate'
  | 'activation'
  | 'max_pool'
  | 'average_pool'
  | 'batch_norm'
  | 'reshape'
  | 'other';

export type Pair = readonly [number, number];

/** One operation of the network, as it ran for this picture. */
export interface Step {
  step: number;
  name: string;
  kind: OperationKind;
  operation: string;
  shape: readonly number[];
  reads: readonly number[];
  layer: number;
  folded: string | null;
  kernel?: Pair;
  stride?: Pair;
  padding?: readonly [Pair, Pair];
  dilation?: Pair;
  groups?: number;
}

export interface PassLayer {
  name: string;
  step: number;
  shape: readonly number[];
  strongest: readonly { channel: number; largest: number }[];
}

export interface Pass {
  network: string;
  size: number;
  mean: readonly number[];
  std: readonly number[];
  steps: readonly Step[];
  layers: readonly PassLayer[];
  /** `others` is what all other classes share; `log_sum` the logarithm of the sum of e to the power of every score. */
  output: { step: number; classes: readonly TopClass[]; others: number; log_sum?: number | null };
}

/** Null is what JSON has no word for, as the edge of a max pool, which is below all numbers. */
export type Matrix = readonly (readonly (number | null)[])[];

/** One summand: what one input channel adds. */
export interface Term {
  step: number;
  channel: number;
  title: string;
  /** Top left of the patch. */
  y: number;
  x: number;
  sum: number;
  /** Null where the term is one number as it is. */
  patch: Matrix | null;
  kernel: Matrix | null;
  /** Of a max pool: where in the patch the largest number is. */
  largest?: Pair;
}

/** The arithmetic of one number of a step's output. */
export interface UnitArithmetic {
  step: number;
  channel: number;
  y: number;
  x: number;
  kind: OperationKind;
  value: number;
  total: number;
  terms: readonly Term[];
  other_terms: { count: number; sum: number } | null;
  bias: number | null;
  formula: { name: string; text?: string | null; input?: number | null } | null;
  inner: UnitArithmetic | null;
}

/** The pictures beside a term. */
export interface TermPicture {
  /** The map that the number was made of, and its step. */
  map?: Float32Array | undefined;
  rows: number;
  cols: number;
  step: number;
  /** Undefined where there is none to come. */
  icon?: ImageBitmap | null;
}

/** One number of a step's output; y and x are 0 where the output is no map. */
export interface Spot {
  step: number;
  channel: number;
  y: number;
  x: number;
}

/** Requests about one picture, with a cache of the answers, so that going back takes no time. */
export class PassClient {
  readonly #maps = new Map<string, Float32Array>();
  readonly #units = new Map<string, UnitArithmetic>();
  readonly #icons = new Map<string, ImageBitmap>();

  constructor(
    readonly picture: Blob,
    readonly network: number,
  ) {}

  async pass(signal: AbortSignal): Promise<Pass> {
    return (await this.#ask('api/forward', {}, signal)) as Pass;
  }

  /** Maps of some channels, each H·W numbers row by row; of a step that is no map all numbers, as channel 0. */
  async maps(step: Step, channels: readonly number[], signal: AbortSignal): Promise<Map<number, Float32Array>> {
    const requested = isMap(step) ? channels : [0];
    const missing = requested.filter((channel) => !this.#maps.has(`${step.step} ${channel}`));
    if (missing.length) {
      const query = { step: step.step, ...(isMap(step) ? { channel: missing } : {}) };
      const answer = (await this.#ask('api/forward/maps', query, signal)) as { maps: Record<string, string> };
      for (const [channel, text] of Object.entries(answer.maps)) this.#maps.set(`${step.step} ${channel}`, floats(text));
    }
    const entries = requested.map((channel) => [channel, this.#maps.get(`${step.step} ${channel}`)] as const);
    return new Map(entries.filter((pair): pair is [number, Float32Array] => pair[1] !== undefined));
  }

  async unit(spot: Spot, terms: number, signal: AbortSignal): Promise<UnitArithmetic> {
    const query = { step: spot.step, channel: spot.channel, y: spot.y, x: spot.x, terms };
    const key = Object.values(query).join(' ');
    const unit = this.#units.get(key) ?? ((await this.#ask('api/forward/unit', query, signal)) as UnitArithmetic);
    this.#units.set(key, unit);
    return unit;
  }

  /** Icons of units, as they come. */
  async *unitIcons(layer: string, channels: readonly number[], signal: AbortSignal): AsyncGenerator<readonly [number, ImageBitmap]> {
    const missing: number[] = [];
    for (const channel of channels) {
      const cached = this.#icons.get(`${layer} ${channel}`);
      if (cached) yield [channel, cached];
      else missing.push(channel);
    }
    if (!missing.length) return;
    for await (const icon of channelIcons(this.network, layer, missing, signal)) {
      const picture = await decodePicture(icon.picture);
      this.#icons.set(`${layer} ${icon.channel}`, picture);
      if (signal.aborted) return;
      yield [icon.channel, picture];
    }
  }

  async #ask(address: string, parameters: Record<string, number | readonly number[]>, signal: AbortSignal): Promise<unknown> {
    return json(await post(address, { network: this.network, ...parameters }, this.picture, signal));
  }
}

/** Whether a step has maps, be it of one position. */
export function isMap(step: { shape: readonly number[] }): boolean {
  return step.shape.length === 3;
}

/** Whether a step has positions to choose from. */
export function hasPositions(step: { shape: readonly number[] }): boolean {
  const [, rows = 1, cols = 1] = step.shape;
  return isMap(step) && rows * cols > 1;
}

/** float32, little-endian, as base64. */
export function floats(text: string): Float32Array {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, index) => view.getFloat32(4 * index, true));
}

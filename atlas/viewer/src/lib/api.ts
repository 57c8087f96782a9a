/**
 * What a server with Python behind it answers about one picture; a site on a plain file server has none of this.
 *
 * A picture is sent as the body of each request, as it is: the server caches what it has computed for the last few.
 * Every function takes a signal; aborting it stops the work on the server at once, and the promise or the stream then
 * ends with an AbortError. All other failures are UserErrors.
 */

import { UserError } from './atlas';

export interface Limits {
  /** The largest file, in bytes. */
  bytes: number;
  /** The largest picture, in pixels. */
  pixels: number;
}

export interface Sample {
  address: string;
  title: string;
}

export interface TopClass {
  class: number;
  logit: number;
  probability: number;
}

/** [grid, row, col] */
type DrawnCell = readonly [number, number, number];

/** One layer of the picture; lists have an entry for each position, row by row: position = y · cols + x. */
export interface ExplainedLayer {
  path: string;
  network: number;
  rows: number;
  cols: number;
  channels: number;
  /** The norm of the activation beside the largest of the layer, 0 to 1. */
  magnitude: number[];
  /** Where it lands on the layer's own map, in [0, 1]; null where it has no place. */
  u: (number | null)[];
  v: (number | null)[];
  /** The share of the map's own rows that are less near to their neighbours: near 0, nothing like it was in the data. */
  confidence: (number | null)[];
  /** The finest drawn cell that it lands in. */
  cell: (DrawnCell | null)[];
  /** h · ∂logit/∂h at each position, in logits, by the number of the class. */
  attribution: Record<string, number[]>;
}

export interface Explanation {
  /** Upright source pixels; `box` (x0, y0, x1, y1) is the square that the network saw. */
  picture: { width: number; height: number; box: [number, number, number, number] };
  networks: { name: string; size: number; classes: TopClass[] }[];
  layers: ExplainedLayer[];
}

/** A number for each position, by class and layer. */
export type Attributions = Record<string, Record<string, number[]>>;

export interface PositionIcon {
  position: number;
  /** A data address of WebP. */
  picture: string;
  cosine: number;
}

interface ClassValue {
  class: number;
  value: number;
}

export interface Group {
  /** How much of each position belongs to the group, 0 to 1. */
  mask: number[];
  /** Its share of the layer's magnitude. */
  share: number;
  supports: ClassValue[];
  opposes: ClassValue[];
  u: number | null;
  v: number | null;
  confidence: number | null;
}

export interface Grouping {
  groups: Group[];
  /** The share of the layer's activations that the groups together make up, 0 to 1. */
  explained_share: number;
  /** Whether positive and negative parts were taken apart first. */
  split_by_sign: boolean;
}

interface GroupIcon {
  group: number;
  picture: string;
  cosine: number;
}

interface ChannelIcon {
  channel: number;
  picture: string;
}

/** The server's progress (0 to 1), and at last the logit with − the logit without each position, by class. */
type Removal = { share: number } | { classes: Record<string, number[]> };

export async function askLimits(signal: AbortSignal): Promise<{ ready: boolean; limits: Limits }> {
  return (await json(await ask('api/explain', { signal }))) as { ready: boolean; limits: Limits };
}

export async function askSamples(signal: AbortSignal): Promise<Sample[]> {
  return ((await json(await ask('api/samples', { signal }))) as { samples: Sample[] }).samples;
}

/** The bytes of a sample picture. */
export async function fetchSample(sample: Sample, signal: AbortSignal): Promise<Blob> {
  return await readBody(await ask(sample.address, { signal }), (response) => response.blob());
}

export async function explain(picture: Blob, signal: AbortSignal): Promise<Explanation> {
  return (await json(await post('api/explain', {}, picture, signal))) as Explanation;
}

/** Attributions of further classes of a network, for all of its layers. */
export async function explainClasses(picture: Blob, network: number, classes: readonly number[], signal: AbortSignal): Promise<Attributions> {
  const answer = await json(await post('api/explain/classes', { network, class: classes }, picture, signal));
  return (answer as { classes: Attributions }).classes;
}

/** The true difference that each position makes, by taking it out. */
export function explainRemoved(picture: Blob, layer: string, classes: readonly number[], signal: AbortSignal): AsyncGenerator<Removal> {
  return stream<Removal>(() => post('api/explain/removed', { layer, class: classes }, picture, signal));
}

/** An icon for every position, the strongest first. */
export function explainIcons(picture: Blob, layer: string, signal: AbortSignal): AsyncGenerator<PositionIcon> {
  return stream<PositionIcon>(() => post('api/explain/icons', { layer }, picture, signal));
}

/** The groups of a layer, then an icon for each. */
export function explainGroups(picture: Blob, layer: string, count: number, signal: AbortSignal): AsyncGenerator<Grouping | GroupIcon> {
  return stream<Grouping | GroupIcon>(() => post('api/explain/groups', { layer, count }, picture, signal));
}

/** Icons of single channels of any module whose output is a map. */
export function channelIcons(network: number, layer: string, channels: readonly number[], signal: AbortSignal): AsyncGenerator<ChannelIcon> {
  return stream<ChannelIcon>(() => ask(`api/neurons?${query({ network, layer, channel: channels })}`, { signal }));
}

/** Whether an error comes from aborting, which is no failure. */
export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === 'AbortError';
}

type Parameters = Record<string, string | number | readonly number[]>;

export function query(parameters: Parameters): string {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const item of typeof value === 'object' ? value : [value]) parts.append(name, String(item));
  }
  return String(parts);
}

/** Ask about a picture. */
export function post(address: string, parameters: Parameters, picture: Blob, signal: AbortSignal): Promise<Response> {
  const text = query(parameters);
  return ask(text ? `${address}?${text}` : address, { method: 'POST', body: picture, signal });
}

async function ask(address: string, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(address, init);
  } catch (error) {
    throw isAbort(error) ? error : serverGone();
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** The server's own sentence where it gives one. */
async function refusal(response: Response): Promise<UserError> {
  try {
    const { sentence } = (await response.json()) as { sentence?: unknown };
    if (typeof sentence === 'string') return new UserError(sentence);
  } catch {
    // Something between the page and the server has answered.
  }
  return new UserError(`The server could not answer (status ${response.status}). Give the picture again; if that does not help, start atlas serve anew.`);
}

function serverGone(): UserError {
  return new UserError('The server does not answer any more. Start it again with atlas serve, then give the picture again.');
}

export function json(response: Response): Promise<unknown> {
  return readBody(response, (answer) => answer.json());
}

async function readBody<T>(response: Response, read: (response: Response) => Promise<T>): Promise<T> {
  try {
    return await read(response);
  } catch (error) {
    throw isAbort(error) ? error : serverGone();
  }
}

/** The objects of a stream of lines as they come; leaving the loop early closes the connection. */
async function* stream<T>(open: () => Promise<Response>): AsyncGenerator<T> {
  const response = await open();
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  try {
    for await (const line of lines(reader)) {
      const message = parseLine(line);
      if (typeof message['sentence'] === 'string') throw new UserError(message['sentence']);
      yield message as T;
    }
  } finally {
    reader.cancel().catch(() => {
      // It has ended already.
    });
  }
}

function parseLine(line: string): Record<string, unknown> {
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    throw serverGone(); // the last line was cut short
  }
}

async function* lines(reader: ReadableStreamDefaultReader<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = '';
  for (;;) {
    let chunk: ReadableStreamReadResult<Uint8Array>;
    try {
      chunk = await reader.read();
    } catch (error) {
      throw isAbort(error) ? error : serverGone();
    }
    rest += decoder.decode(chunk.value, { stream: !chunk.done });
    const complete = rest.split('\n');
    rest = chunk.done ? '' : (complete.pop() as string);
    yield* complete.filter((line) => line.trim() !== '');
    if (chunk.done) return;
  }
}

/** What tour.json holds: the steps of the story, with this run's own examples. */

import { damagedFile, fetchJson } from '../lib/atlas';

export type TourStepKind = 'network' | 'neuron' | 'image' | 'atlas' | 'invariant' | 'circuit' | 'forward';

/** A small picture of a step. */
export interface TourPicture {
  picture: string;
  label: string | null;
  /** How much it counts, 0 to 1 beside the most. */
  value?: number;
  /** Whether it builds (1) or opposes (−1) what is on the right. */
  sign?: 1 | -1;
  /** Parts of one line stand side by side. */
  line?: string;
}

export interface TourStep {
  kind: TourStepKind;
  title: string;
  text: string[];
  /** What to look at. */
  see: string | null;
  /** By which figure the example was chosen. */
  figure: string | null;
  /** The words of the button that leads to the live view. */
  go: string | null;
  link: string | null;
  /** The address of the picture that the live view opens. */
  picture_to_open: string | null;
  picture: string | null;
  parts: TourPicture[];
}

export interface Tour {
  title: string;
  steps: TourStep[];
}

const ADDRESS = 'tour.json';

export async function loadTour(): Promise<Tour> {
  const tour = (await fetchJson(ADDRESS)) as Tour;
  if (!tour.steps?.length) throw damagedFile(ADDRESS);
  return tour;
}

/** Parts that stand side by side, line by line, in their order. */
export function linesOf(parts: readonly TourPicture[]): { label: string | null; parts: TourPicture[] }[] {
  const lines = new Map<string, TourPicture[]>();
  for (const part of parts) lines.set(part.line ?? '', [...(lines.get(part.line ?? '') ?? []), part]);
  return [...lines.values()].map((line) => ({ label: line[0]?.label ?? null, parts: line }));
}

/** The step that a link names, counted from 0; null where it names none. */
export function stepIn(hash: string): number | null {
  const text = new URLSearchParams(hash.replace(/^#/, '')).get('tour');
  if (text === null) return null;
  const number = Number.parseInt(text, 10);
  return number >= 1 ? number - 1 : 0;
}

export type Opening = 'image' | 'forward';

/** What a link opens about one picture: its panel, or also its forward pass. */
export function openingIn(hash: string): Opening | null {
  const text = new URLSearchParams(hash.replace(/^#/, '')).get('open');
  return text === 'image' || text === 'forward' ? text : null;
}

/** Whether a live view needs the network at hand, which a static site has not. */
export function needsServer(step: TourStep): boolean {
  return step.link !== null && openingIn(step.link) !== null;
}

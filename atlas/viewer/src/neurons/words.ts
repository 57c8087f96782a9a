/** Figures of units in plain words. */

import type { UnitOrder } from '../lib/link';
import type { Circuit, Tuning } from './files';

export const ORDER_WORDS: Record<UnitOrder, { button: string; title: string; note: string }> = {
  strongest: {
    button: 'strongest answer',
    title: 'By the largest activation in the data',
    note: 'By the strongest answer of each in all the pictures (largest activation).',
  },
  invariant: {
    button: 'most pose-invariant',
    title: 'By how alike a unit answers whichever way up its patches are',
    note: 'By how alike each answers to its own top patches whichever way up they are: 1 is wholly alike (invariance).',
  },
  selective: {
    button: 'most selective',
    title: 'By how much a unit answers to some angles only',
    note: 'By how much each answers to its own top patches at some angles only: 0 to all angles alike, 0.64 to one half of the circle alone, the largest value (selectivity).',
  },
  rare: {
    button: 'rarest',
    title: 'By the share of the places in the data at which a unit answers at all',
    note: 'By the share of all places in the pictures at which each answers at all (activation above 0), the rarest first.',
  },
};

/** Below this correlation, weights and data disagree. */
const LOW_AGREEMENT = 0.3;

export function invarianceWords(value: number): string {
  if (value >= 0.85) return 'almost alike';
  if (value >= 0.7) return 'fairly alike';
  if (value >= 0.5) return 'unevenly';
  return 'only at some angles';
}

export function selectivityWords(value: number): string {
  if (value < 0.05) return 'to none more than to others';
  if (value < 0.15) return 'a little';
  if (value < 0.3) return 'clearly';
  return 'strongly';
}

/** Degrees from upright within which a preferred angle says nothing: patches are chosen as they were found. */
const UPRIGHT = 30;

/** Whether a unit clearly answers most to its patches when they are turned. */
export function isTurned({ preferred_angle, selectivity }: Tuning): boolean {
  if (preferred_angle === null || selectivity === null || selectivity < 0.05) return false;
  const angle = ((preferred_angle % 360) + 360) % 360;
  return Math.min(angle, 360 - angle) > UPRIGHT;
}

/** The tuning of a unit, for those who cannot see the curve. */
export function tuningWords({ degrees, response, largest_response }: Tuning): string {
  const parts = degrees.map((angle, i) => `${angle}°: ${Math.round((100 * (response[i] ?? 0)) / (largest_response || 1))} %`);
  return `Answers by angle, beside the largest: ${parts.join(', ')}`;
}

/** What a source does to a unit: four cases. */
export function sourceWords(value: number, absent: boolean, unit: number): string {
  return `${value > 0 ? 'builds' : 'inhibits'} unit ${unit}${absent ? ' when it is below 0' : ''}`;
}

/** What it means that a source acts when it is below 0. */
export function absenceWords(value: number, unit: number): string {
  return `Unit ${unit} answers ${value > 0 ? 'more' : 'less'} where this one is below 0, where it sees the opposite of its picture.`;
}

/** How far the weights and the data agree, and what follows. */
export function agreementWords({ agreement }: Circuit): { text: string; low: boolean } {
  if (agreement === null) return { text: 'It is not known how far the weights agree with the data.', low: true };
  const figure = `${agreement.toFixed(2)} of 1 (correlation)`;
  if (agreement < LOW_AGREEMENT) {
    return {
      text: `The weights hardly agree with what happens in the data: ${figure}. Between layers so far apart expanded weights can cancel; trust the effect in the data.`,
      low: true,
    };
  }
  const how = agreement >= 0.8 ? 'agree well' : agreement >= 0.55 ? 'agree in part' : 'agree little';
  return { text: `The weights ${how} with what happens in the data: ${figure}.`, low: false };
}

/** What was passed over when the way between two layers was made linear. */
export function linearisedWords(nonlinearities: readonly string[]): string {
  if (!nonlinearities.length) return 'Nothing on the way is non-linear: the weights are exact.';
  const list = nonlinearities.length > 1 ? `${nonlinearities.slice(0, -1).join(', ')} and ${nonlinearities.at(-1)}` : nonlinearities[0];
  return `On the way these were taken as linear: ${list}.`;
}

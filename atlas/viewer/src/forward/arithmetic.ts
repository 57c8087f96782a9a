/** The arithmetic of one number as it is shown: its precision, its difference to the network, and the numbers it is made of. */

import { largest } from './map_pixels';
import type { Pass, Spot, Term, UnitArithmetic } from './pass';
import { productOf } from './sliding_kernel';
import { decimalsFor } from './words';

/** Digits of a float32 that count. */
const ALL = 9;

export function height(term: Term): number {
  return term.patch?.length ?? 1;
}

export function side(term: Term): number {
  return term.patch?.[0]?.length ?? 1;
}

export function products(term: Term): number[][] {
  return term.kernel && term.patch ? productOf(term.patch, term.kernel) : [];
}

/** The largest numbers of all terms: those of the strongest tints. */
export interface Scales {
  patch: number;
  kernel: number;
  product: number;
  sum: number;
}

export function scalesOf(terms: readonly Term[]): Scales {
  const over = (numbers: (term: Term) => readonly (number | null)[]) => Math.max(0, ...terms.map((term) => largest(numbers(term))));
  return {
    patch: over((term) => term.patch?.flat() ?? []),
    kernel: over((term) => term.kernel?.flat() ?? []),
    product: over((term) => products(term).flat()),
    sum: over((term) => [term.sum]),
  };
}

/** Decimals of the sums: to the thousandth of the largest, so that they can be added up. */
export function sumDecimals(unit: UnitArithmetic, scales: Scales): number {
  return Math.max(3, 1 + decimalsFor(Math.max(scales.sum, Math.abs(unit.total)), 8));
}

/** Digits that two factors need so that their product comes to what is shown of it, with so many decimals: 4 at least. */
export function factorDigits(product: number, decimals: number): number {
  const needed = product === 0 ? 0 : Math.ceil(1 + decimals + Math.log10(2 * Math.abs(product)));
  return Math.min(ALL, Math.max(4, needed));
}

/** How far total and network are apart, and what that is beside the size of all that was added up. */
export function closeness(unit: UnitArithmetic): { difference: number; share: number | null } {
  const difference = Math.abs(unit.total - unit.value);
  const sum = sizeOf(unit);
  return { difference, share: sum > 0 ? difference / sum : null };
}

function sizeOf(unit: UnitArithmetic): number {
  if (unit.inner && unit.kind !== 'batch_norm') return sizeOf(unit.inner);
  if (unit.kind === 'multiply') return Math.abs(unit.value);
  const terms = unit.terms.reduce((sum, term) => sum + Math.abs(term.sum), 0);
  return terms + Math.abs(unit.other_terms?.sum ?? 0) + Math.abs(unit.bias ?? 0);
}

/** The number of a patch that decides most, or the one that was pointed at; null beyond the edge of its map. */
export function spotOf(pass: Pass, unit: UnitArithmetic, term: Term, row?: number, col?: number): Spot | null {
  const [down, right] = pass.steps[unit.step]?.dilation ?? [1, 1];
  const [, rows = 1, cols = 1] = pass.steps[term.step]?.shape ?? [];
  const inMap = (i: number, j: number) => {
    const [y, x] = [term.y + i * down, term.x + j * right];
    return y >= 0 && x >= 0 && y < rows && x < cols;
  };
  let at: readonly [number, number] = row === undefined || col === undefined ? (term.largest ?? [0, 0]) : [row, col];
  if (row === undefined && !term.largest) {
    const parts = (term.kernel ? products(term) : (term.patch ?? [[0]])).map((line) => line.map((value) => Math.abs(value ?? 0)));
    const best = Math.max(...parts.flat());
    parts.forEach((line, i) => line.forEach((value, j) => value === best && inMap(i, j) && (at = [i, j])));
  }
  if (!pass.steps[term.step] || !inMap(at[0], at[1])) return null;
  return { step: term.step, channel: term.channel, y: term.y + at[0] * down, x: term.x + at[1] * right };
}

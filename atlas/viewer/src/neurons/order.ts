/** Which units a list shows, in which order, and the figure beside each. */

import type { UnitOrder } from '../lib/link';
import type { UnitFilter } from '../lib/look.svelte';
import { percent, signed } from '../lib/words';
import type { UnitTable } from './files';

/** All units in an order, or by their effects on a class; or those that answer like one. */
export type Wanted = { order: UnitOrder } | UnitFilter;

export interface Listed {
  unit: number;
  figure: string;
  /** It has no such figure: it stands behind all that have. */
  without: boolean;
}

const NONE = '–';

/** `effects` are those of each unit on the class that is wanted. */
export function listed(table: UnitTable, wanted: Wanted, effects: readonly number[] = []): Listed[] {
  if ('class' in wanted) {
    const figures = signed(effects);
    const without = (unit: number) => Boolean(table.never[unit]);
    const units = effects.map((_, unit) => unit);
    units.sort((one, other) => Number(without(one)) - Number(without(other)) || (effects[other] as number) - (effects[one] as number));
    return units.map((unit) => ({ unit, figure: without(unit) ? NONE : (figures[unit] as string), without: without(unit) }));
  }
  if ('like' in wanted) {
    const alike = table.similar[wanted.like] ?? [];
    return [
      { unit: wanted.like, figure: 'itself', without: false },
      ...alike.map(([unit, correlation]) => ({ unit, figure: correlation.toFixed(2), without: false })),
    ];
  }
  const { values, high, words } = column(table, wanted.order);
  const units = values.map((_, unit) => unit);
  const rank = (unit: number) => {
    const value = values[unit] ?? null;
    return value === null ? Infinity : high ? -value : value;
  };
  units.sort((one, other) => (rank(one) === rank(other) ? one - other : rank(one) - rank(other)));
  return units.map((unit) => {
    const value = values[unit] ?? null;
    return { unit, figure: value === null ? NONE : words(value), without: value === null };
  });
}

/** The figures of an order, null where a unit has none; whether high ones come first. */
function column(table: UnitTable, order: UnitOrder): { values: (number | null)[]; high: boolean; words: (value: number) => string } {
  const answering = <T>(values: readonly (T | null)[]) => values.map((value, unit) => (table.never[unit] ? null : value));
  switch (order) {
    case 'strongest':
      return { values: answering(table.largest), high: true, words: short };
    case 'invariant':
      return { values: answering(table.invariance), high: true, words: (value) => value.toFixed(2) };
    case 'selective':
      return { values: answering(table.selectivity), high: true, words: (value) => value.toFixed(2) };
    case 'rare':
      return { values: answering(table.positive), high: false, words: percent };
  }
}

/** A number with three figures, as far as it deserves them. */
export function short(value: number): string {
  if (value === 0) return '0';
  const size = Math.abs(value);
  const text = size >= 1000 || size < 0.001 ? size.toExponential(1) : size.toPrecision(3);
  return `${value < 0 ? '−' : ''}${text}`;
}

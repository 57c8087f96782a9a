/** Which units a list shows, in which order, and the figure beside each. */

import type { UnitOrder } from '../lib/link';
import type { UnitFilter } from '../lib/page_state.svelte';
import { percent, signed } from '../lib/words';
import type { UnitTable } from './files';

/** Which units to list: all in an order, or by their effects on a class, or those that answer like one. */
export type ListQuery = { order: UnitOrder } | UnitFilter;

export interface UnitEntry {
  unit: number;
  figure: string;
  /** It has no such figure: it stands behind all that have. */
  hasNoFigure: boolean;
}

const NONE = '–';

/** `effects` are those of each unit on the class of the query. */
export function listUnits(table: UnitTable, query: ListQuery, effects: readonly number[] = []): UnitEntry[] {
  if ('class' in query) {
    const figures = signed(effects);
    const isSilent = (unit: number) => Boolean(table.never_active[unit]);
    const units = effects.map((_, unit) => unit);
    units.sort((one, other) => Number(isSilent(one)) - Number(isSilent(other)) || (effects[other] as number) - (effects[one] as number));
    return units.map((unit) => ({ unit, figure: isSilent(unit) ? NONE : (figures[unit] as string), hasNoFigure: isSilent(unit) }));
  }
  if ('like' in query) {
    const alike = table.correlated[query.like] ?? [];
    return [
      { unit: query.like, figure: 'itself', hasNoFigure: false },
      ...alike.map(([unit, correlation]) => ({ unit, figure: correlation.toFixed(2), hasNoFigure: false })),
    ];
  }
  const { values, high, words } = column(table, query.order);
  const units = values.map((_, unit) => unit);
  const rank = (unit: number) => {
    const value = values[unit] ?? null;
    return value === null ? Infinity : high ? -value : value;
  };
  units.sort((one, other) => (rank(one) === rank(other) ? one - other : rank(one) - rank(other)));
  return units.map((unit) => {
    const value = values[unit] ?? null;
    return { unit, figure: value === null ? NONE : words(value), hasNoFigure: value === null };
  });
}

/** The figures of an order, null where a unit has none; whether high ones come first. */
function column(table: UnitTable, order: UnitOrder): { values: (number | null)[]; high: boolean; words: (value: number) => string } {
  const answering = <T>(values: readonly (T | null)[]) => values.map((value, unit) => (table.never_active[unit] ? null : value));
  switch (order) {
    case 'strongest':
      return { values: answering(table.largest), high: true, words: threeFigures };
    case 'invariant':
      return { values: answering(table.invariance), high: true, words: (value) => value.toFixed(2) };
    case 'selective':
      return { values: answering(table.selectivity), high: true, words: (value) => value.toFixed(2) };
    case 'rare':
      return { values: answering(table.active_share), high: false, words: percent };
  }
}

/** A number with three figures, as far as it deserves them. */
export function threeFigures(value: number): string {
  if (value === 0) return '0';
  const size = Math.abs(value);
  const text = size >= 1000 || size < 0.001 ? size.toExponential(1) : size.toPrecision(3);
  return `${value < 0 ? '−' : ''}${text}`;
}

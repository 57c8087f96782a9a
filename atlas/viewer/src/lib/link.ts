/** The address behind #: everything that is on the screen, so that a copied link opens the same. */

/** Where the map stands: the point in the middle ([0, 1]²), and the zoom (1: the whole map just fits). */
export interface View {
  x: number;
  y: number;
  zoom: number;
}

export interface Place {
  grid: number;
  row: number;
  col: number;
}

/** What lights up for a class: the cells that support it, those that oppose it, or both in two colours. */
export type Side = 'support' | 'oppose' | 'both';
/** How a second map is shown: beside the first, or under it behind a line that moves. */
export type Arrangement = 'beside' | 'swipe';
/** What happens to icons of low scores: they are marked, left out, or shown like all others. */
export type Low = 'mark' | 'hide' | 'plain';

/** One channel of a layer ("neuron"). */
export interface Unit {
  layer: string;
  unit: number;
}

/** What the view of neurons lists first: the strongest answer, most alike at all angles, to one angle only, or seldom. */
export type Order = 'strongest' | 'invariant' | 'selective' | 'rare';

export interface Link {
  layer?: string;
  view?: View;
  /** The grid that is shown at every zoom; without it the zoom decides. */
  level?: number;
  /** How much of the real patches is seen over the icons, 0 to 1. */
  patches?: number;
  /** One class, or two, by their whole names. */
  classes?: string[];
  side?: Side;
  /** How much is darkened of what a class does not light up, 0 to 1. */
  strength?: number;
  /** The open cell, and others that are selected with it. */
  cells?: Place[];
  /** The second map. */
  with?: string;
  how?: Arrangement;
  /** Where the swipe's line stands, as a share of the window's width. */
  at?: number;
  /** How much smaller cells of few activations are drawn, 0 to 1. */
  density?: number;
  labels?: boolean;
  low?: Low;
  /** The unit that lights up on its layer's map, in place of a class. */
  lit?: Unit;
  /** The layer whose units are listed, or the unit that is shown. */
  neurons?: string;
  unit?: Unit;
  show?: 'circuit';
  order?: Order;
  /** The class or the unit that the list of units is narrowed to. */
  for?: string;
  like?: number;
}

const SIDES: readonly Side[] = ['support', 'oppose', 'both'];
const LOWS: readonly Low[] = ['mark', 'hide', 'plain'];
export const ORDERS: readonly Order[] = ['strongest', 'invariant', 'selective', 'rare'];
export const MOST_CELLS = 400;

/** The link's text; what is as it is by default is left out. */
export function formatLink(link: Link): string {
  const parts = new URLSearchParams();
  const put = (name: string, value: string | number | undefined) => {
    if (value !== undefined) parts.append(name, typeof value === 'number' ? short(value) : value);
  };
  put('layer', link.layer);
  put('x', link.view?.x);
  put('y', link.view?.y);
  put('zoom', link.view?.zoom);
  put('level', link.level);
  if (link.patches) put('patches', link.patches);
  for (const name of link.classes ?? []) put('class', name);
  put('lit', link.lit && unitText(link.lit));
  if (link.classes?.length || link.lit) {
    if (link.side !== 'support') put('side', link.side);
    if (link.strength !== DEFAULTS.strength) put('strength', link.strength);
  }
  if (link.cells?.length) put('cells', link.cells.map(({ grid, row, col }) => `${grid}.${row}.${col}`).join(' '));
  if (link.with !== undefined) {
    put('with', link.with);
    if (link.how === 'swipe') {
      put('how', link.how);
      put('at', link.at);
    }
  }
  if (link.density) put('density', link.density);
  if (link.labels === false) put('labels', 'off');
  if (link.low !== DEFAULTS.low) put('low', link.low);
  put('neurons', link.neurons);
  put('unit', link.unit && unitText(link.unit));
  if (link.unit) put('show', link.show);
  if ((link.unit || link.neurons !== undefined) && link.order !== DEFAULTS.order) put('order', link.order);
  if (link.unit || link.neurons !== undefined) {
    put('for', link.for);
    put('like', link.like);
  }
  return `#${parts}`;
}

export const DEFAULTS = { patches: 0, side: 'support', strength: 0.75, how: 'beside', at: 0.5, density: 0, labels: true, low: 'mark', order: 'strongest' } as const;

/** Reads what is usable and leaves out the rest: a link that was typed or cut short still opens the page. */
export function parseLink(hash: string): Link {
  const parts = new URLSearchParams(hash.replace(/^#/, ''));
  const link: Link = {};
  const text = (name: string) => parts.get(name) || undefined;
  const number = (name: string) => {
    const value = Number.parseFloat(parts.get(name) ?? '');
    return Number.isFinite(value) ? value : undefined;
  };
  const share = (name: string) => {
    const value = number(name);
    return value === undefined ? undefined : within(value);
  };
  const one = <T extends string>(name: string, known: readonly T[]) => known.find((each) => each === parts.get(name));
  const [x, y, zoom] = [number('x'), number('y'), number('zoom')];
  if (x !== undefined && y !== undefined && zoom !== undefined && zoom > 0) link.view = { x: near(x), y: near(y), zoom };
  const classes = parts.getAll('class').filter(Boolean).slice(0, 2);
  const cells = (parts.get('cells') ?? '').split(/[\s,]+/).flatMap(place).slice(0, MOST_CELLS);
  return Object.assign(
    link,
    defined({
      layer: text('layer'),
      level: number('level'),
      patches: share('patches'),
      classes: classes.length ? classes : undefined,
      side: one('side', SIDES),
      strength: share('strength'),
      cells: cells.length ? cells : undefined,
      with: text('with'),
      how: one<Arrangement>('how', ['beside', 'swipe']),
      at: share('at'),
      density: share('density'),
      labels: parts.get('labels') === 'off' ? false : undefined,
      low: one('low', LOWS),
      lit: unitOf(parts.get('lit')),
      neurons: text('neurons'),
      unit: unitOf(parts.get('unit')),
      show: one<'circuit'>('show', ['circuit']),
      order: one('order', ORDERS),
      for: text('for'),
      like: /^\d{1,6}$/.test(parts.get('like') ?? '') ? number('like') : undefined,
    }),
  );
}

/** A unit as a link names it: _blocks.10:7. */
function unitText({ layer, unit }: Unit): string {
  return `${layer}:${unit}`;
}

function unitOf(text: string | null): Unit | undefined {
  const found = /^(.+):(\d{1,6})$/.exec(text ?? '');
  return found ? { layer: found[1] as string, unit: Number(found[2]) } : undefined;
}

function place(text: string): Place[] {
  const found = /^(\d{1,4})\.(\d{1,4})\.(\d{1,4})$/.exec(text);
  if (!found) return [];
  const [grid, row, col] = found.slice(1).map(Number) as [number, number, number];
  return row < grid && col < grid ? [{ grid, row, col }] : [];
}

function defined<T extends object>(values: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as never;
}

/** The middle of the window may lie off the map. */
function near(value: number): number {
  return Math.min(2, Math.max(-1, value));
}

function within(value: number): number {
  return Math.min(1, Math.max(0, value));
}

function short(value: number): string {
  return String(Number(value.toPrecision(4)));
}

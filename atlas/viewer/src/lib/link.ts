/** The address behind #: everything that is on the screen, so that a copied link opens the same. */

/** Where the map stands: the point in the middle ([0, 1]²), and the zoom (1: the whole map just fits). */
export interface View {
  x: number;
  y: number;
  zoom: number;
}

export interface CellRef {
  grid: number;
  row: number;
  col: number;
}

/** What lights up for a class: the cells that support it, those that oppose it, or both in two colours. */
export type HeatSide = 'support' | 'oppose' | 'both';
/** How a second map is shown: beside the first, or under it behind a line that moves. */
export type Arrangement = 'beside' | 'swipe';
/** What happens to icons of low scores: they are marked, left out, or shown like all others. */
export type LowScoreStyle = 'mark' | 'hide' | 'plain';

/** One channel of a layer ("neuron"). */
export interface Unit {
  layer: string;
  unit: number;
}

/** What the view of neurons lists first: the strongest answer, most alike at all angles, to one angle only, or seldom. */
export type UnitOrder = 'strongest' | 'invariant' | 'selective' | 'rare';

export interface Link {
  mapName?: string;
  view?: View;
  /** The grid that is shown at every zoom; without it the zoom decides. */
  level?: number;
  /** How much of the real patches is seen over the icons, 0 to 1. */
  patches?: number;
  /** One class, or two, by their whole names. */
  classes?: string[];
  side?: HeatSide;
  /** How much is darkened of what a class does not light up, 0 to 1. */
  darkening?: number;
  /** The open cell, and others that are selected with it. */
  cells?: CellRef[];
  /** The second map. */
  secondMapName?: string;
  arrangement?: Arrangement;
  /** Where the swipe's line stands, as a share of the window's width. */
  swipeAt?: number;
  /** How much smaller cells of few activations are drawn, 0 to 1. */
  density?: number;
  labels?: boolean;
  low?: LowScoreStyle;
  /** The unit that lights up on its layer's map, in place of a class. */
  lit?: Unit;
  /** The layer whose units are listed, or the unit that is shown. */
  neurons?: string;
  unit?: Unit;
  show?: 'circuit';
  order?: UnitOrder;
  /** The class or the unit that the list of units is narrowed to. */
  for?: string;
  like?: number;
}

const SIDES: readonly HeatSide[] = ['support', 'oppose', 'both'];
const LOWS: readonly LowScoreStyle[] = ['mark', 'hide', 'plain'];
export const ORDERS: readonly UnitOrder[] = ['strongest', 'invariant', 'selective', 'rare'];
export const MOST_CELLS = 400;

/** The link's text; what is as it is by default is left out. */
export function formatLink(link: Link): string {
  const parts = new URLSearchParams();
  const put = (name: string, value: string | number | undefined) => {
    if (value !== undefined) parts.append(name, typeof value === 'number' ? roundedText(value) : value);
  };
  put('layer', link.mapName);
  put('x', link.view?.x);
  put('y', link.view?.y);
  put('zoom', link.view?.zoom);
  put('level', link.level);
  if (link.patches) put('patches', link.patches);
  for (const name of link.classes ?? []) put('class', name);
  put('lit', link.lit && unitText(link.lit));
  if (link.classes?.length || link.lit) {
    if (link.side !== 'support') put('side', link.side);
    if (link.darkening !== DEFAULTS.darkening) put('darkening', link.darkening);
  }
  if (link.cells?.length) put('cells', link.cells.map(({ grid, row, col }) => `${grid}.${row}.${col}`).join(' '));
  if (link.secondMapName !== undefined) {
    put('with', link.secondMapName);
    if (link.arrangement === 'swipe') {
      put('how', link.arrangement);
      put('at', link.swipeAt);
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

export const DEFAULTS = { patches: 0, side: 'support', darkening: 0.75, arrangement: 'beside', swipeAt: 0.5, density: 0, labels: true, low: 'mark', order: 'strongest' } as const;

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
    return value === undefined ? undefined : clampShare(value);
  };
  const choice = <T extends string>(name: string, options: readonly T[]) => options.find((option) => option === parts.get(name));
  const [x, y, zoom] = [number('x'), number('y'), number('zoom')];
  if (x !== undefined && y !== undefined && zoom !== undefined && zoom > 0) link.view = { x: clampCentre(x), y: clampCentre(y), zoom };
  const classes = parts.getAll('class').filter(Boolean).slice(0, 2);
  const cells = (parts.get('cells') ?? '').split(/[\s,]+/).flatMap(parseCell).slice(0, MOST_CELLS);
  return Object.assign(
    link,
    withoutUndefined<Link>({
      mapName: text('layer'),
      level: number('level'),
      patches: share('patches'),
      classes: classes.length ? classes : undefined,
      side: choice('side', SIDES),
      darkening: share('darkening'),
      cells: cells.length ? cells : undefined,
      secondMapName: text('with'),
      arrangement: choice<Arrangement>('how', ['beside', 'swipe']),
      swipeAt: share('at'),
      density: share('density'),
      labels: parts.get('labels') === 'off' ? false : undefined,
      low: choice('low', LOWS),
      lit: parseUnit(parts.get('lit')),
      neurons: text('neurons'),
      unit: parseUnit(parts.get('unit')),
      show: choice<'circuit'>('show', ['circuit']),
      order: choice('order', ORDERS),
      for: text('for'),
      like: /^\d{1,6}$/.test(parts.get('like') ?? '') ? number('like') : undefined,
    }),
  );
}

/** A unit as a link names it: _blocks.10:7. */
function unitText({ layer, unit }: Unit): string {
  return `${layer}:${unit}`;
}

function parseUnit(text: string | null): Unit | undefined {
  const match = /^(.+):(\d{1,6})$/.exec(text ?? '');
  return match ? { layer: match[1] as string, unit: Number(match[2]) } : undefined;
}

function parseCell(text: string): CellRef[] {
  const match = /^(\d{1,4})\.(\d{1,4})\.(\d{1,4})$/.exec(text);
  if (!match) return [];
  const [grid, row, col] = match.slice(1).map(Number) as [number, number, number];
  return row < grid && col < grid ? [{ grid, row, col }] : [];
}

function withoutUndefined<T extends object>(values: { [K in keyof T]: T[K] | undefined }): T {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as never;
}

/** The middle of the window may lie off the map. */
function clampCentre(value: number): number {
  return Math.min(2, Math.max(-1, value));
}

function clampShare(value: number): number {
  return Math.min(1, Math.max(0, value));
}

function roundedText(value: number): string {
  return String(Number(value.toPrecision(4)));
}

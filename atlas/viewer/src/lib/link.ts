/** The address behind #: layer, view and picture, so that a copied link opens the same view. */

import type { Picture } from './source';

/** Where the map stands: the point in the middle ([0, 1]²), and the zoom (1: the whole map just fits). */
export interface View {
  x: number;
  y: number;
  zoom: number;
}

export interface Link {
  layer?: string;
  view?: View;
  show?: Picture;
}

export function formatLink(link: Link): string {
  const parts = new URLSearchParams();
  if (link.layer !== undefined) parts.set('layer', link.layer);
  if (link.view) {
    parts.set('x', short(link.view.x));
    parts.set('y', short(link.view.y));
    parts.set('zoom', short(link.view.zoom));
  }
  if (link.show === 'patches') parts.set('show', 'patches');
  return `#${parts}`;
}

/** Reads what is usable and leaves out the rest: a link that was typed or cut short still opens the page. */
export function parseLink(hash: string): Link {
  const parts = new URLSearchParams(hash.replace(/^#/, ''));
  const link: Link = {};
  const layer = parts.get('layer');
  if (layer) link.layer = layer;
  const [x, y, zoom] = ['x', 'y', 'zoom'].map((name) => Number.parseFloat(parts.get(name) ?? '')) as [number, number, number];
  if ([x, y, zoom].every(Number.isFinite) && zoom > 0) link.view = { x: within(x), y: within(y), zoom };
  if (parts.get('show') === 'patches') link.show = 'patches';
  return link;
}

function within(value: number): number {
  return Math.min(1, Math.max(0, value));
}

function short(value: number): string {
  return String(Number(value.toPrecision(4)));
}

/** How one picture is painted: itself, the icons of its positions, effects on a class, or a group's mask. */

import type { ExplainedLayer } from '../lib/api';
import type { Box } from '../lib/frame';
import { OPPOSE, SUPPORT } from '../lib/heat';
import type { Colours } from '../lib/theme';
import { boxOf } from './positions';
import type { IconSheet } from './sheet';

interface Painting {
  picture: HTMLCanvasElement | null;
  layer: ExplainedLayer | null;
  /** What lies over the picture; a mask goes before the others. */
  sheet: IconSheet | null;
  values: readonly number[] | null;
  mask: readonly number[] | null;
  /** The position with a ring. */
  markedPosition: number | null;
  colours: Colours;
}

/** How much of a colour lies over the strongest position, and how much of the picture is darkened outside a mask. */
const TINT = 0.85;
const DARKNESS = 0.8;
/** Weak values are lifted a little, so that they differ visibly from zero. */
const LIFT = 0.7;
/** How much of a stand-in, and of the picture below icons, is seen. */
const PALE = 0.4;
const BELOW = 0.16;

/** A value's colour and opacity, beside the largest of its layer. */
export function tint(value: number, largest: number): { colour: string; opacity: number } {
  const share = largest > 0 ? Math.min(1, Math.abs(value) / largest) : 0;
  return { colour: `rgb(${(value < 0 ? OPPOSE : SUPPORT).join(' ')})`, opacity: TINT * share ** LIFT };
}

export function largestOf(values: readonly number[]): number {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

/** Paint onto a square of `side` CSS pixels, from 0, 0. */
export function paint(context: CanvasRenderingContext2D, side: number, painting: Painting): void {
  const { picture, layer, sheet, values, mask, markedPosition, colours } = painting;
  context.globalAlpha = 1;
  context.fillStyle = colours.ground;
  context.fillRect(0, 0, side, side);
  context.imageSmoothingQuality = 'high';
  if (picture) {
    context.globalAlpha = sheet && !mask ? BELOW : 1;
    context.drawImage(picture, 0, 0, side, side);
    context.globalAlpha = 1;
  }
  if (!layer) return;
  if (mask) paintMask(context, side, layer, mask);
  else if (sheet) paintIcons(context, side, layer, sheet);
  else if (values) paintValues(context, side, layer, values);
  if (markedPosition !== null) boxRing(context, boxOf(layer, markedPosition, side), colours);
}

/** An icon's area goes by the magnitude of its position. */
function paintIcons(context: CanvasRenderingContext2D, side: number, layer: ExplainedLayer, sheet: IconSheet): void {
  for (const position of sheet.filled) {
    const { left, top, width, height } = boxOf(layer, position, side);
    const size = Math.sqrt(layer.magnitude[position] ?? 0);
    const { x, y } = sheet.corner(position);
    const [w, h] = [width * size, height * size];
    const [to, at] = [left + (width - w) / 2, top + (height - h) / 2];
    context.globalAlpha = sheet.own.has(position) ? 1 : PALE;
    context.drawImage(sheet.canvas, x, y, sheet.side, sheet.side, to, at, w, h);
  }
  context.globalAlpha = 1;
}

/** The picture without its colours, which here are the values'. */
function paintValues(context: CanvasRenderingContext2D, side: number, layer: ExplainedLayer, values: readonly number[]): void {
  context.globalCompositeOperation = 'saturation';
  context.fillStyle = '#808080';
  context.fillRect(0, 0, side, side);
  context.globalCompositeOperation = 'source-over';
  const largest = largestOf(values);
  values.forEach((value, position) => {
    const { colour, opacity } = tint(value, largest);
    context.fillStyle = colour;
    context.globalAlpha = opacity;
    fill(context, layer, position, side);
  });
  context.globalAlpha = 1;
}

function paintMask(context: CanvasRenderingContext2D, side: number, layer: ExplainedLayer, mask: readonly number[]): void {
  context.fillStyle = '#0e0f11';
  mask.forEach((share, position) => {
    context.globalAlpha = DARKNESS * (1 - share ** LIFT);
    fill(context, layer, position, side);
  });
  context.globalAlpha = 1;
}

/** On whole pixels of the screen, so that no seams are seen between neighbours. */
function fill(context: CanvasRenderingContext2D, layer: ExplainedLayer, position: number, side: number): void {
  const { a: ratio } = context.getTransform();
  const { left, top, width, height } = boxOf(layer, position, side);
  const whole = (edge: number) => Math.round(edge * ratio) / ratio;
  const [from, above] = [whole(left), whole(top)];
  context.fillRect(from, above, whole(left + width) - from, whole(top + height) - above);
}

/** Dark and light, so that it stands out on everything. */
function boxRing(context: CanvasRenderingContext2D, box: Box, colours: Colours): void {
  for (const [width, colour] of [[5, colours.ground], [2, colours.ink]] as const) {
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.strokeRect(box.left, box.top, box.width, box.height);
  }
}

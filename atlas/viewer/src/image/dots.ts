/** The dots of one image on the map. */

import type { ExplainedLayer, Group } from '../lib/api';
import type { Frame } from '../lib/frame';
import type { Point } from '../lib/levels';
import type { Colours } from '../lib/theme';

/** Draws what else is on the map, below its names. */
export type DrawMarks = (context: CanvasRenderingContext2D) => void;

/** Pixels from a dot within which it is pointed at. */
const NEAR = 9;
/** Radius of the weakest and of the strongest position's dot on a map of USUAL pixels; smaller and larger maps have others. */
const SMALLEST = 2.2;
const LARGEST_RADIUS = 6.5;
const USUAL = 864;
const BADGE = 11;
/** Opacity of a dot of which nothing like it was in the data. */
const FAINTEST = 0.4;

export interface Dots {
  layer: ExplainedLayer;
  /** The position with a ring. */
  markedPosition: number | null;
  groups: readonly Group[];
  /** The group that is pointed at. */
  group: number | null;
  colours: Colours;
}

function at(frame: Frame, u: number, v: number): Point {
  return { x: frame.left + u * frame.side, y: frame.top + v * frame.side };
}

/** The position whose dot is nearest to a pixel; null where none is near. */
export function nearestDot(layer: ExplainedLayer, frame: Frame, to: Point): number | null {
  let nearest: number | null = null;
  let least = NEAR;
  layer.u.forEach((u, position) => {
    const v = layer.v[position] ?? null;
    if (u === null || v === null) return;
    const { x, y } = at(frame, u, v);
    const far = Math.hypot(x - to.x, y - to.y);
    if (far < least) [nearest, least] = [position, far];
  });
  return nearest;
}

/** Size by magnitude, opacity by confidence; the marked one, with its ring, and the numbers of groups come last. */
export function drawDots(context: CanvasRenderingContext2D, frame: Frame, { layer, markedPosition, groups, group, colours }: Dots): void {
  const scale = Math.min(1.6, Math.max(0.5, frame.side / USUAL));
  const radius = (position: number) => scale * (SMALLEST + (LARGEST_RADIUS - SMALLEST) * Math.sqrt(layer.magnitude[position] ?? 0));
  const dot = (position: number) => {
    const [u, v] = [layer.u[position] ?? null, layer.v[position] ?? null];
    if (u === null || v === null) return;
    const { x, y } = at(frame, u, v);
    context.globalAlpha = position === markedPosition ? 1 : FAINTEST + (1 - FAINTEST) * (layer.confidence[position] ?? 0);
    disc(context, x, y, radius(position) + 1.4, colours.ground);
    disc(context, x, y, radius(position), colours.ink);
    if (position === markedPosition) dotRing(context, x, y, radius(position) + 6, colours);
  };
  layer.u.forEach((_, position) => position !== markedPosition && dot(position));
  groups.forEach(({ u, v }, number) => {
    if (u === null || v === null) return;
    context.globalAlpha = group === null || group === number ? 1 : 0.45;
    badge(context, at(frame, u, v), String(number + 1), colours);
  });
  if (markedPosition !== null) dot(markedPosition);
  context.globalAlpha = 1;
}

function disc(context: CanvasRenderingContext2D, x: number, y: number, radius: number, colour: string): void {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = colour;
  context.fill();
}

function dotRing(context: CanvasRenderingContext2D, x: number, y: number, radius: number, colours: Colours): void {
  for (const [width, colour] of [[5.5, colours.ground], [2.5, colours.ink]] as const) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.stroke();
  }
}

/** A group: its number on a disc. */
function badge(context: CanvasRenderingContext2D, { x, y }: Point, number: string, colours: Colours): void {
  disc(context, x, y, BADGE, colours.ink);
  disc(context, x, y, BADGE - 1.5, colours.ground);
  context.fillStyle = colours.ink;
  context.font = '600 12px system-ui, sans-serif';
  context.textAlign = 'center';
  context.textBaseline = 'middle';
  context.fillText(number, x, y + 0.5);
}

/** Where the map lies in the window, and the way between points of the map and pixels of the window. */

import type { Point } from './levels';
import type { CellRef, View } from './link';

/** The map's square and the window around it, all in CSS pixels. */
export interface Frame {
  left: number;
  top: number;
  side: number;
  width: number;
  height: number;
}

export interface Box {
  left: number;
  top: number;
  width: number;
  height: number;
}

/** Share of the window's shorter side that the whole map takes. */
const FIT = 0.96;

/** The map's side at zoom 1: all of it fits into the window. */
export function fittingSide(width: number, height: number): number {
  return FIT * Math.min(width, height);
}

export function pointAt(frame: Frame, pixel: Point): Point {
  return { x: (pixel.x - frame.left) / frame.side, y: (pixel.y - frame.top) / frame.side };
}

export function cellBox(frame: Frame, cell: { grid: number; row: number; col: number }): Box {
  const size = frame.side / cell.grid;
  return { left: frame.left + cell.col * size, top: frame.top + cell.row * size, width: size, height: size };
}

export function viewOf(frame: Frame): View {
  const middle = pointAt(frame, { x: frame.width / 2, y: frame.height / 2 });
  return { ...middle, zoom: frame.side / fittingSide(frame.width, frame.height) };
}

/** The view in which a cell lies in the middle of the free part of the window (in its pixels); null where it lies in it already. */
export function viewShowing(frame: Frame, cell: CellRef, free: { left: number; top: number; right: number; bottom: number }): View | null {
  const { left, top, right, bottom } = free;
  const box = cellBox(frame, cell);
  if (box.left >= left && box.top >= top && box.left + box.width <= right && box.top + box.height <= bottom) return null;
  const off = { x: (frame.width - left - right) / 2 / frame.side, y: (frame.height - top - bottom) / 2 / frame.side };
  return { x: (cell.col + 0.5) / cell.grid + off.x, y: (cell.row + 0.5) / cell.grid + off.y, zoom: viewOf(frame).zoom };
}

/** The part of the map that the window shows, as shares of the map's side; it may reach beyond 0 and 1. */
export function windowOnMap(frame: Frame): Box {
  return {
    left: -frame.left / frame.side,
    top: -frame.top / frame.side,
    width: frame.width / frame.side,
    height: frame.height / frame.side,
  };
}

const GAP = 14;
const MARGIN = 12;

/** Where a card stands beside a cell: to the right if there is room, else to the left; never over the cell. */
export function cardPlace(cell: Box, card: { width: number; height: number }, frame: Frame): Point {
  const right = cell.left + cell.width + GAP;
  const left = cell.left - GAP - card.width;
  const x = right + card.width + MARGIN <= frame.width || left < MARGIN ? right : left;
  const y = cell.top + cell.height / 2 - card.height / 2;
  return {
    x: Math.min(x, frame.width - card.width - MARGIN),
    y: Math.max(MARGIN, Math.min(y, frame.height - card.height - MARGIN)),
  };
}

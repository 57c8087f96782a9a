import { describe, expect, it } from 'vitest';

import { cardPlace, cellBox, fittingSide, pointAt, viewOf, viewShowing, windowOnMap, type Frame } from '../src/lib/frame';

const frame: Frame = { left: -300, top: 50, side: 2000, width: 1440, height: 900 };

describe('frame', () => {
  it('goes from a pixel to the map and, by the cell, back', () => {
    expect(pointAt(frame, { x: 700, y: 1050 })).toEqual({ x: 0.5, y: 0.5 });
    expect(cellBox(frame, { grid: 20, row: 0, col: 10 })).toEqual({ left: 700, top: 50, width: 100, height: 100 });
  });

  it('has zoom 1 where the whole map just fits', () => {
    const side = fittingSide(1440, 900);
    const fitting = { left: (1440 - side) / 2, top: (900 - side) / 2, side, width: 1440, height: 900 };
    expect(viewOf(fitting)).toEqual({ x: 0.5, y: 0.5, zoom: 1 });
    expect(side).toBeLessThan(900);
  });

  it('moves a cell that is covered into the middle of what is free, and leaves others where they are', () => {
    const free = { left: 0, top: 0, right: 1056, bottom: 900 };
    expect(viewShowing(frame, { grid: 20, row: 4, col: 8 }, free)).toBeNull();
    const view = viewShowing(frame, { grid: 20, row: 4, col: 14 }, free); // at 1100 to 1200, under what begins at 1056
    // The window's middle, 720, lies 192 right of the free part's, 528: 0.096 of the map's 2000.
    expect(view?.x).toBeCloseTo(14.5 / 20 + 0.096);
    expect(view?.y).toBeCloseTo(4.5 / 20);
    expect(view?.zoom).toBe(viewOf(frame).zoom);
  });

  it('says which part of the map the window shows', () => {
    expect(windowOnMap(frame)).toEqual({ left: 0.15, top: -0.025, width: 0.72, height: 0.45 });
  });
});

describe('cardPlace', () => {
  const card = { width: 272, height: 300 };
  const cell = (left: number, top: number) => ({ left, top, width: 40, height: 40 });

  it('stands to the right of the cell, level with its middle', () => {
    expect(cardPlace(cell(600, 400), card, frame)).toEqual({ x: 654, y: 270 });
  });

  it('goes to the left where the right has no room', () => {
    expect(cardPlace(cell(1300, 400), card, frame).x).toBe(1300 - 14 - 272);
  });

  it('never leaves the window', () => {
    expect(cardPlace(cell(600, 0), card, frame).y).toBe(12);
    expect(cardPlace(cell(600, 880), card, frame).y).toBe(900 - 300 - 12);
  });

  it('never covers the cell, wherever it lies', () => {
    for (let left = 0; left <= 1400; left += 20) {
      const place = cardPlace(cell(left, 300), card, frame);
      expect(place.x >= left + 40 || place.x + card.width <= left).toBe(true);
    }
  });
});

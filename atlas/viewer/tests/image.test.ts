import { describe, expect, it } from 'vitest';

import type { ExplainedLayer } from '../src/lib/api';
import { confidenceWords, percent } from '../src/lib/words';
import { nearestDot } from '../src/image/dots';
import { pictureAmong, refuseLarge } from '../src/image/upload';
import { largestOf, tint } from '../src/image/paint';
import { boxOf, middleOf, positionAt, stepFrom } from '../src/image/positions';
import { isMiddle } from '../src/image/sheet';

const file = (name: string, type: string, bytes = 10) => new File([new Uint8Array(bytes)], name, { type });

describe('pictureAmong', () => {
  it('takes the first picture of several files, and says so', () => {
    const upload = pictureAmong([file('a.pdf', 'application/pdf'), file('b.png', 'image/png'), file('c.jpg', 'image/jpeg')]);
    expect(upload.file.name).toBe('b.png');
    expect(upload.note).toContain('3 files were given. This is the first picture among them, “b.png”');
    expect(pictureAmong([file('b.png', 'image/png')]).note).toBeNull();
  });

  it('leaves it to the server where the browser knows no kind', () => {
    expect(pictureAmong([file('scan', '')]).file.name).toBe('scan');
  });

  it('names what was given where none is a picture', () => {
    expect(() => pictureAmong([file('a.mp4', 'video/mp4')])).toThrow('“a.mp4” is a video (video/mp4), not a picture. Give a picture');
    expect(() => pictureAmong([file('a.pdf', 'application/pdf'), file('b.txt', 'text/plain')])).toThrow(
      '“a.pdf” is a PDF document (application/pdf), not a picture. So it is with the 1 other file.',
    );
    expect(() => pictureAmong([file('a.x', 'model/x')])).toThrow('“a.x” is of the kind model/x, not a picture.');
    expect(() => pictureAmong([])).toThrow('No file was given.');
  });
});

describe('refuseLarge', () => {
  it('tells both sizes', () => {
    const limits = { bytes: 2_000_000, pixels: 1 };
    expect(() => refuseLarge(file('a.png', 'image/png', 2_500_000), limits)).toThrow('“a.png” has 2.5 MB, and the server takes pictures of 2.0 MB at most.');
    expect(() => refuseLarge(file('a.png', 'image/png', 2_000_000), limits)).not.toThrow();
  });
});

describe('tint', () => {
  it('has a colour for each side, and goes by the share of the largest', () => {
    expect(tint(2, 2)).toEqual({ colour: 'rgb(217 95 2)', opacity: 0.85 });
    expect(tint(-1, 2).colour).toBe('rgb(27 108 168)');
    expect(tint(-1, 2).opacity).toBeCloseTo(0.85 * 0.5 ** 0.7);
    expect(tint(0, 0).opacity).toBe(0);
    expect(largestOf([0.5, -2])).toBe(2);
  });
});

describe('positions', () => {
  const layer = { rows: 2, cols: 4, u: [0.25, null, 0.75, 0.5, 0, 0, 0, 0], v: [0.5, null, 0.5, 0.5, 0, 0, 0, 0] } as ExplainedLayer;
  const frame = { left: 100, top: 0, side: 400, width: 800, height: 600 };

  it('go row by row', () => {
    expect(boxOf(layer, 5, 400)).toEqual({ left: 100, top: 200, width: 100, height: 200 });
    expect(middleOf(layer, 5)).toEqual({ x: 0.375, y: 0.75 });
    expect(positionAt(layer, { x: 0.375, y: 0.75 })).toBe(5);
    expect([positionAt(layer, { x: 1, y: 1 }), positionAt(layer, { x: -1, y: 0 })]).toEqual([7, 0]);
  });

  it('end at the edges', () => {
    expect([stepFrom(layer, 5, 1, 0), stepFrom(layer, 5, 0, -1), stepFrom(layer, 5, 0, 1), stepFrom(layer, 4, -1, 0)]).toEqual([6, 1, 5, 4]);
  });

  it('are found by their dots, where one is near', () => {
    expect(nearestDot(layer, frame, { x: 206, y: 203 })).toBe(0);
    expect(nearestDot(layer, frame, { x: 299, y: 200 })).toBe(3);
    expect(nearestDot(layer, frame, { x: 250, y: 200 })).toBeNull();
  });
});

describe('the square that the network saw', () => {
  it('is most often the middle one', () => {
    expect(isMiddle({ width: 640, height: 480, box: [80, 0, 560, 480] })).toBe(true);
    expect(isMiddle({ width: 641, height: 480, box: [80, 0, 560, 480] })).toBe(true);
    expect(isMiddle({ width: 640, height: 480, box: [110, 30, 530, 450] })).toBe(false);
  });
});

describe('words of one image', () => {
  it('tell how near the data come', () => {
    expect([0.9, 0.3, 0.1, 0.02].map(confidenceWords)).toEqual([
      'much like what was in the data',
      'like some of what was in the data',
      'little like what was in the data',
      'nothing like this was in the data',
    ]);
    expect(confidenceWords(null)).toBe('it has no place on the map');
  });

  it('give probabilities the decimals that they deserve', () => {
    expect([1, 0.614, 0.0996, 0.0521, 0.0005, 0.0001].map(percent)).toEqual(['100 %', '61 %', '10 %', '5.2 %', '0.1 %', '< 0.1 %']);
  });
});

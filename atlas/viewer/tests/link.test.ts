import { describe, expect, it } from 'vitest';

import { DEFAULTS, formatLink, parseLink, type Link } from '../src/lib/link';

describe('link', () => {
  it('comes back as it went in', () => {
    const link: Link = {
      mapName: '_blocks.4',
      view: { x: 0.25, y: 0.7512, zoom: 3.5 },
      level: 20,
      patches: 0.5,
      classes: ['tench, Tinca tinca', 'daisy & co'],
      side: 'both',
      darkening: 0.3,
      cells: [{ grid: 20, row: 5, col: 19 }, { grid: 20, row: 6, col: 0 }],
      secondMapName: '_blocks.10',
      arrangement: 'swipe',
      swipeAt: 0.25,
      density: 0.6,
      labels: false,
      low: 'hide',
    };
    expect(parseLink(formatLink(link))).toEqual(link);
  });

  it('names units, and what is shown of them', () => {
    const views: Link[] = [
      { mapName: '_blocks.4', lit: { layer: '_blocks.4', unit: 0 }, side: 'both', darkening: 0.3 },
      { mapName: 'a', neurons: '_blocks.10', order: 'invariant' },
      { mapName: 'a', neurons: '_blocks.10', for: 'Egyptian cat', order: 'rare' },
      { mapName: 'a', unit: { layer: 'b', unit: 8 }, like: 7, order: 'rare' },
      { mapName: 'a', unit: { layer: 'b:c d', unit: 7 }, show: 'circuit', order: 'rare' },
    ];
    for (const link of views) expect(parseLink(formatLink({ low: 'mark', ...link }))).toEqual(link);
    const unit = { layer: '_blocks.10', unit: 7 };
    expect(parseLink('#unit=_blocks.10:7&show=circuit')).toEqual({ unit, show: 'circuit' });
    expect(parseLink('#lit=_blocks.10%3A7&layer=_blocks.10')).toEqual({ lit: unit, mapName: '_blocks.10' });
    expect(parseLink('#unit=_blocks.10&lit=7&show=all&order=best')).toEqual({});
    expect(formatLink({ mapName: 'a', neurons: 'b', order: 'strongest', low: 'mark' })).toBe('#layer=a&neurons=b');
  });

  it('says only what is not as it is by default', () => {
    expect(formatLink({ ...DEFAULTS, mapName: 'a', classes: [], cells: [] })).toBe('#layer=a');
    expect(formatLink({ mapName: 'a', side: 'both', arrangement: 'swipe', swipeAt: 0.2, low: 'mark' })).toBe('#layer=a');
    expect(formatLink({ mapName: 'a', cells: [{ grid: 8, row: 1, col: 2 }], low: 'mark' })).toBe('#layer=a&cells=8.1.2');
  });

  it('carries maps with any name', () => {
    expect(parseLink(formatLink({ mapName: 'a&b=c d/é' })).mapName).toBe('a&b=c d/é');
  });

  it('leaves out what it cannot read', () => {
    expect(parseLink('')).toEqual({});
    expect(parseLink('#x=0.5&y=abc&zoom=2')).toEqual({});
    expect(parseLink('#x=0.5&y=0.5&zoom=-1&side=left&how=9&low=')).toEqual({});
    expect(parseLink('#x=7&y=-3&zoom=2&patches=4&darkening=x')).toEqual({ view: { x: 2, y: -1, zoom: 2 }, patches: 1 });
    expect(parseLink('#x=1.097&y=-0.2&zoom=2').view).toEqual({ x: 1.097, y: -0.2, zoom: 2 });
    expect(parseLink('#cells=20.5.7+20.20.1+a.b.c+20.6.7').cells).toEqual([
      { grid: 20, row: 5, col: 7 },
      { grid: 20, row: 6, col: 7 },
    ]);
    expect(parseLink('#class=a&class=b&class=c').classes).toEqual(['a', 'b']);
  });
});

import { describe, expect, it } from 'vitest';

import { formatLink, parseLink } from '../src/lib/link';

describe('link', () => {
  it('comes back as it went in', () => {
    const link = { layer: '_blocks.4', view: { x: 0.25, y: 0.7512, zoom: 3.5 }, show: 'patches' as const };
    expect(formatLink(link)).toBe('#layer=_blocks.4&x=0.25&y=0.7512&zoom=3.5&show=patches');
    expect(parseLink(formatLink(link))).toEqual(link);
  });

  it('carries layers with any name', () => {
    expect(parseLink(formatLink({ layer: 'a&b=c d/é' })).layer).toBe('a&b=c d/é');
  });

  it('says nothing about icons, which are what the page opens with', () => {
    expect(formatLink({ layer: 'a', show: 'icons' })).toBe('#layer=a');
  });

  it('leaves out what it cannot read', () => {
    expect(parseLink('')).toEqual({});
    expect(parseLink('#x=0.5&y=abc&zoom=2')).toEqual({});
    expect(parseLink('#x=0.5&y=0.5&zoom=-1&show=other')).toEqual({});
    expect(parseLink('#x=7&y=-3&zoom=2')).toEqual({ view: { x: 1, y: 0, zoom: 2 } });
  });
});

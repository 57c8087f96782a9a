import { describe, expect, it } from 'vitest';

import { className, count, effectWords, cosineWords, barShare, signed, flagWords } from '../src/lib/words';

describe('words', () => {
  it('shows the first synonym of a class', () => {
    expect(className(['tench, Tinca tinca', 'Egyptian cat'], 0)).toBe('tench');
    expect(className(['tench, Tinca tinca', 'Egyptian cat'], 1)).toBe('Egyptian cat');
    expect(className([], 7)).toBe('class 7');
  });

  it('counts one and many', () => {
    expect(count(1, 'activation', 'activations')).toBe('1 activation');
    expect(count(12345, 'activation', 'activations')).toBe('12,345 activations');
  });

  it('gives all values of a list the same decimals, and their signs', () => {
    expect(signed([0.554, 0.3, -0.171, 0.001])).toEqual(['+0.55', '+0.30', '−0.17', '0']);
    expect(signed([12.4, -3])).toEqual(['+12.4', '−3.0']);
    expect(signed([1.04, 0.6])).toEqual(['+1.04', '+0.60']);
    expect(signed([0.0345, 0.001])).toEqual(['+0.035', '+0.001']);
    expect(signed([0.00002])).toEqual(['+2.0e-5']);
    expect(signed([0, 0])).toEqual(['0', '0']);
  });

  it('measures bars by the largest value, whatever its sign', () => {
    expect(barShare(-2, [1, -2])).toBe(1);
    expect(barShare(1, [1, -2])).toBe(0.5);
    expect(barShare(0, [0])).toBe(0);
  });

  it('puts the score and the flag into words', () => {
    expect([0.95, 0.8, 0.6, 0.2].map(cosineWords)).toEqual(['very well', 'well', 'roughly', 'poorly']);
    expect(flagWords('low')).toContain('care');
    expect(flagWords(null)).toBeNull();
  });
});

describe('effectWords', () => {
  it('says the right way round what is without a position', () => {
    expect(effectWords(0.082, ['tiger cat'], true)).toBe('without it tiger cat loses 0.082');
    expect(effectWords(-0.082, ['tiger cat'], true)).toBe('without it tiger cat gains 0.082');
    expect(effectWords(-0.5, ['cat', 'dog'], true)).toBe('without it dog loses 0.50 against cat');
    expect(effectWords(-0.082, ['tiger cat'], false)).toBe('−0.082 for tiger cat');
    expect(effectWords(-0.5, ['cat', 'dog'], false)).toBe('0.50 more for dog');
    expect(effectWords(0, ['cat', 'dog'], false)).toBe('0 for cat');
  });
});

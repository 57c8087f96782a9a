import { describe, expect, it } from 'vitest';

import { PromiseCache } from '../src/lib/cache';

/** Something to fetch that counts how often it is fetched. */
function counted(cache: PromiseCache<string>) {
  const times: Record<string, number> = {};
  const get = (name: string) =>
    cache.get(name, () => {
      times[name] = (times[name] ?? 0) + 1;
      return Promise.resolve(name);
    });
  return { get, times };
}

describe('the cache of promises', () => {
  it('is fetched once', async () => {
    const { get, times } = counted(new PromiseCache());
    expect(await Promise.all([get('a'), get('a')])).toEqual(['a', 'a']);
    expect(times).toEqual({ a: 1 });
  });

  it('is what was used last', async () => {
    const { get, times } = counted(new PromiseCache(2));
    for (const name of ['a', 'b', 'a', 'c', 'a', 'b']) await get(name);
    expect(times).toEqual({ a: 1, b: 2, c: 1 });
  });

  it('is fetched anew after a failure', async () => {
    const cache = new PromiseCache<string>();
    await expect(cache.get('a', () => Promise.reject(new Error('gone')))).rejects.toThrow('gone');
    expect(await cache.get('a', () => Promise.resolve('a'))).toBe('a');
  });
});

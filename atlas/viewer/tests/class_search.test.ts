import { describe, expect, it } from 'vitest';

import { findClasses } from '../src/parts/class_search';

const classes = ['tench, Tinca tinca', 'Egyptian cat', 'catamaran', 'tabby, tabby cat', 'bobcat (wild)', 'Cat', 'C++ (x)'];
const names = (typed: string) => findClasses(classes, typed).map(({ name }) => name);

describe('findClasses', () => {
  it('puts the name itself first, then those that begin with it, then words that do, then the rest', () => {
    expect(names('cat')).toEqual(['Cat', 'catamaran', 'Egyptian cat', 'tabby', 'bobcat (wild)']);
  });

  it('finds synonyms, words in any order, and signs', () => {
    expect(names('tinca')).toEqual(['tench']);
    expect(names('cat egyptian')).toEqual(['Egyptian cat']);
    expect(names('c++ (')).toEqual(['C++ (x)']);
    expect(names('zebra')).toEqual([]);
  });

  it('shows all, by name, before anything is typed', () => {
    expect(names(' ')).toHaveLength(7);
  });
});

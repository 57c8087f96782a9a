/** Classes found by typing. */

interface Match {
  index: number;
  /** The first synonym, and the others. */
  name: string;
  others: string;
}

/** Classes whose names hold what was typed: names that begin with it first, then words that do, then the rest. */
export function findClasses(classes: readonly string[], typed: string): Match[] {
  const query = typed.trim().toLowerCase();
  const ranked: [number, Match][] = [];
  classes.forEach((whole, index) => {
    const order = query ? rank(whole.toLowerCase(), query) : 0;
    if (order < 0) return;
    const [name, ...others] = whole.split(',').map((part) => part.trim());
    ranked.push([order, { index, name: name as string, others: others.join(', ') }]);
  });
  const sorted = ranked.sort(([one, { name }], [other, { name: its }]) => one - other || name.localeCompare(its));
  return sorted.map(([, match]) => match);
}

function rank(whole: string, query: string): number {
  const at = whole.indexOf(query);
  if (at < 0) return query.split(/\s+/).every((word) => whole.includes(word)) ? 4 : -1;
  if (at === 0) return whole.split(',')[0] === query ? 0 : 1;
  return new RegExp(`(^|[^\\p{L}\\p{N}])${escapeRegExp(query)}`, 'u').test(whole) ? 2 : 3;
}

function escapeRegExp(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}

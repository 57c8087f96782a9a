/** Classes found by typing. */

interface Match {
  index: number;
  /** The first synonym, and the others. */
  name: string;
  others: string;
}

/** Classes whose names hold what was typed: names that begin with it first, then words that do, then the rest. */
export function findClasses(classes: readonly string[], typed: string): Match[] {
  const wanted = typed.trim().toLowerCase();
  const found: [number, Match][] = [];
  classes.forEach((whole, index) => {
    const place = wanted ? rank(whole.toLowerCase(), wanted) : 0;
    if (place < 0) return;
    const [name, ...others] = whole.split(',').map((part) => part.trim());
    found.push([place, { index, name: name as string, others: others.join(', ') }]);
  });
  const sorted = found.sort(([one, { name }], [other, { name: its }]) => one - other || name.localeCompare(its));
  return sorted.map(([, match]) => match);
}

function rank(whole: string, wanted: string): number {
  const at = whole.indexOf(wanted);
  if (at < 0) return wanted.split(/\s+/).every((word) => whole.includes(word)) ? 4 : -1;
  if (at === 0) return whole.split(',')[0] === wanted ? 0 : 1;
  return new RegExp(`(^|[^\\p{L}\\p{N}])${escaped(wanted)}`, 'u').test(whole) ? 2 : 3;
}

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}

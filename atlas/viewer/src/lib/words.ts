/** Figures and names in words. */

/** The first synonym: "Egyptian cat" of "Egyptian cat, Mau". */
export function className(classes: readonly string[], index: number): string {
  const name = classes[index];
  return name === undefined ? `class ${index}` : (name.split(',')[0] as string).trim();
}

/** The other synonyms, as they follow the first: ", Mau" of "Egyptian cat, Mau". */
export function synonyms(classes: readonly string[], index: number): string {
  const others = (classes[index] ?? '').split(',').slice(1).join(',').trim();
  return others && `, ${others}`;
}

/** The number of a class by its whole name, or by its first synonym, whatever the capitals; −1 where there is none. */
export function classNumber(classes: readonly string[], name: string): number {
  const lowered = name.toLowerCase();
  const whole = classes.findIndex((candidate) => candidate.toLowerCase() === lowered);
  return whole >= 0 ? whole : classes.findIndex((_, index) => className(classes, index).toLowerCase() === lowered);
}

export function count(value: number, one: string, many: string): string {
  return `${value.toLocaleString('en')} ${value === 1 ? one : many}`;
}

/** A list of values with their signs, all with as many decimals as the largest deserves. */
export function signed(values: readonly number[]): string[] {
  const largest = Math.max(...values.map(Math.abs));
  const power = largest > 0 ? Math.floor(Math.log10(largest)) : 0;
  const decimals = Math.max(0, power < 0 ? 1 - power : 2 - power);
  return values.map((value) => {
    const size = Math.abs(value);
    const figure = power < -3 || power > 4 ? size.toExponential(1) : size.toFixed(decimals);
    return Number(figure) === 0 ? '0' : `${value < 0 ? '−' : '+'}${figure}`;
  });
}

/** What a cell says of its classes: pushes with their signs, or shares of predictions as per cent. */
export function classFigures(values: readonly number[], attributions: boolean): string[] {
  return attributions ? signed(values) : values.map((value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`);
}

/** A cosine as a word for how well the icon shows what the layer sees. */
export function cosineWords(cosine: number): string {
  if (cosine >= 0.9) return 'very well';
  if (cosine >= 0.75) return 'well';
  if (cosine >= 0.6) return 'roughly';
  return 'poorly';
}

/** The mean cosine of a cell's activations to their mean, in words. */
export function likenessWords(cosine: number): string {
  if (cosine >= 0.85) return 'very like';
  if (cosine >= 0.65) return 'like';
  if (cosine >= 0.45) return 'somewhat like';
  return 'hardly like';
}

const FLAGS: Record<string, string> = {
  dead: 'The layer hardly answers to this picture.',
  grey: 'The picture stayed almost grey.',
  low: 'Take this picture with care.',
};

export function flagWords(flag: string | null): string | null {
  return flag === null ? null : (FLAGS[flag] ?? null);
}

/** Length of a bar, 0 to 1, beside the largest of its list. */
export function barShare(value: number, values: readonly number[]): number {
  const largest = Math.max(...values.map(Math.abs));
  return largest > 0 ? Math.abs(value) / largest : 0;
}

/** How near an activation is to what the map is made of, in words. */
export function confidenceWords(confidence: number | null): string {
  if (confidence === null) return 'it has no place on the map';
  if (confidence >= 0.5) return 'much like what was in the data';
  if (confidence >= 0.2) return 'like some of what was in the data';
  if (confidence >= 0.05) return 'little like what was in the data';
  return 'nothing like this was in the data';
}

/** A probability as per cent, with decimals only where they matter. */
export function percent(probability: number): string {
  const value = 100 * probability;
  if (value >= 9.95) return `${Math.round(value)} %`;
  return value < 0.05 ? '< 0.1 %' : `${value.toFixed(1)} %`;
}

/** What a position does for a class, or for the first of two classes against the second, in logits. */
export function effectWords(value: number, [first = '', second]: readonly string[], byRemoval: boolean): string {
  const figure = signed([value])[0] as string;
  if (figure === '0') return byRemoval ? `without it ${first} loses 0` : `0 for ${first}`;
  const size = figure.slice(1);
  // Of two classes, name the one for which it does more.
  const [one, other] = value < 0 && second !== undefined ? [second, first] : [first, second];
  if (byRemoval) return other === undefined ? `without it ${first} ${value < 0 ? 'gains' : 'loses'} ${size}` : `without it ${one} loses ${size} against ${other}`;
  return other === undefined ? `${figure} for ${first}` : `${size} more for ${one}`;
}

/** What a patch's picture is taken for and, where that is known, its own label. */
export function pictureWords(
  { predicted, confidence, label }: { predicted: number; confidence: number; label: number | null },
  classes: readonly string[],
  labels: readonly string[],
): string[] {
  const prediction = `taken for ${className(classes, predicted)} (${Math.round(confidence * 100)} %)`;
  return label === null ? [prediction] : [prediction, `label: ${labels[label] ?? label}`];
}

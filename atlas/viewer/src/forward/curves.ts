/** The curves of non-linearities, by what their formulas say. */

type Curve = (x: number) => number;

const NUMBER = '(-?[0-9.]+(?:e[-+]?[0-9]+)?)';
const sigmoid: Curve = (x) => 1 / (1 + Math.exp(-x));

/** The error function, by formula 7.1.26 of Abramowitz and Stegun (1964): right to 1.5e-7. */
function erf(x: number): number {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const sum = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - sum * Math.exp(-x * x));
}

/** Formulas as the server writes them; `#` is a number. */
const CURVES: readonly (readonly [string, (...numbers: number[]) => Curve])[] = [
  ['max(x, #)', (low = 0) => (x) => Math.max(x, low)],
  ['min(x, #)', (high = 0) => (x) => Math.min(x, high)],
  ['min(max(x, #), #)', (low = 0, high = 0) => (x) => Math.min(Math.max(x, low), high)],
  ['x if x > 0, else # · x', (slope = 0) => (x) => (x > 0 ? x : slope * x)],
  ['x if x > 0, else (exp(x) − 1)', () => (x) => (x > 0 ? x : Math.expm1(x))],
  ['x if x > 0, else # · (exp(x) − 1)', (alpha = 1) => (x) => (x > 0 ? x : alpha * Math.expm1(x))],
  ['# · x if x > 0, else # · (exp(x) − 1)', (scale = 1, alpha = 1) => (x) => (x > 0 ? scale * x : alpha * Math.expm1(x))],
  ['x if x > 0, else # · (exp(x / #) − 1)', (alpha = 1, width = 1) => (x) => (x > 0 ? x : alpha * Math.expm1(x / width))],
  ['1 / (1 + exp(−x))', () => sigmoid],
  ['x / (1 + exp(−x))', () => (x) => x * sigmoid(x)],
  ['min(max(x + 3, 0), 6) / 6', () => (x) => Math.min(Math.max(x + 3, 0), 6) / 6],
  ['x · min(max(x + 3, 0), 6) / 6', () => (x) => (x * Math.min(Math.max(x + 3, 0), 6)) / 6],
  ['x / 2 · (1 + tanh(√(2 / π) · (x + 0.044715 · x³)))', () => (x) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))],
  ['x / 2 · (1 + erf(x / √2))', () => (x) => (x / 2) * (1 + erf(x / Math.SQRT2))],
  ['log(1 + exp(x))', () => (x) => Math.log1p(Math.exp(Math.min(x, 700)))],
  ['log(1 + exp(# · x)) / #', (beta = 1) => (x) => Math.log1p(Math.exp(Math.min(beta * x, 700))) / beta],
  ['x · tanh(log(1 + exp(x)))', () => (x) => x * Math.tanh(Math.log1p(Math.exp(Math.min(x, 700))))],
  ['tanh(x)', () => Math.tanh],
  ['|x|', () => Math.abs],
  ['−x', () => (x) => -x],
  ['erf(x)', () => erf],
];

const KNOWN = CURVES.map(([text, make]) => {
  const pattern = text.replace(/[.*+?^${}()|[\]\\/]/g, '\\$&').replaceAll('#', NUMBER);
  return [new RegExp(`^${pattern}$`), make] as const;
});

/** The curve that a formula's text names; null where it is not known, or where there is no text. */
export function curveOf(text: string | null | undefined): Curve | null {
  for (const [pattern, make] of KNOWN) {
    const match = pattern.exec(text ?? '');
    if (match) return make(...match.slice(1).map(Number));
  }
  return null;
}

/** The forward pass in words and figures. */

import type { OperationKind, Pass, Step } from './pass';

const MINUS = '−';
const RGB = ['red', 'green', 'blue'];

/** Decimals for a grid of numbers whose largest is this large: two, more of small ones and fewer of large ones. */
export function decimalsFor(largest: number, most = 5): number {
  if (!(largest > 0)) return 0;
  const power = Math.floor(Math.log10(largest));
  return Math.min(most, Math.max(0, power >= 1 ? 2 - power : power >= -1 ? 2 : 1 - power));
}

export function figure(value: number, decimals: number): string {
  const text = Math.abs(value).toFixed(decimals);
  return Number(text) !== 0 && value < 0 ? `${MINUS}${text}` : text;
}

export function signedFigure(value: number, decimals: number): string {
  const text = figure(value, decimals);
  return Number(text) === 0 || value < 0 ? text : `+${text}`;
}

/** A size of any order: 8,955 or 4.8 × 10⁸ or 3 × 10⁻⁷. */
export function size(value: number): string {
  if (value === 0) return '0';
  const power = Math.floor(Math.log10(Math.abs(value)));
  if (power >= 6 || power <= -4) return `${figure(value / 10 ** power, 1)} × 10${superscript(power)}`;
  return figure(value, power < 0 ? 2 - power : Math.max(0, 3 - power)).replace(/\B(?=(\d{3})+(?!\d))(?<!\.\d*)/g, ',');
}

/** A number with all its digits, for those who check it. */
export function full(value: number): string {
  return String(Number(value.toPrecision(9))).replaceAll('-', MINUS);
}

/** A number with so many digits that count. */
export function significant(value: number, digits: number): string {
  const power = value === 0 ? 0 : Math.floor(Math.log10(Math.abs(Number(value.toPrecision(digits)))));
  if (power <= -5) return `${figure(value / 10 ** power, digits - 1)} × 10${superscript(power)}`;
  return figure(value, Math.max(0, digits - 1 - power));
}

function superscript(power: number): string {
  return String(power).replace(/-/, '⁻').replace(/\d/g, (digit) => '⁰¹²³⁴⁵⁶⁷⁸⁹'[Number(digit)] as string);
}

export function shapeWords(shape: readonly number[]): string {
  const [channels = 1, rows, cols] = shape;
  const many = channels.toLocaleString('en');
  if (rows === undefined || (rows === 1 && cols === 1)) return `${many} ${channels === 1 ? 'number' : 'numbers'}`;
  return `${many} ${channels === 1 ? 'channel' : 'channels'} of ${rows} × ${cols}`;
}

/** How a channel is called: the picture's are colours. */
export function channelName(step: Step, channel: number): string {
  if (step.kind === 'input' && step.shape[0] === 3) return RGB[channel] as string;
  return step.shape.length === 1 ? `number ${channel}` : `channel ${channel}`;
}

const OPERATION_TITLES: Record<OperationKind, string> = {
  input: 'picture',
  convolution: 'convolution',
  linear: 'weighted sum',
  add: 'add',
  multiply: 'multiply',
  concatenate: 'put side by side',
  activation: 'non-linearity',
  max_pool: 'largest of',
  average_pool: 'average',
  batch_norm: 'scale and shift',
  reshape: 'rearrange',
  other: 'other',
};

/** What a step does, in a few words; of a 1 × 1 convolution also whether it widens or narrows. */
export function stepTitle(step: Step, pass: Pass): string {
  if (step.kind === 'activation' || step.kind === 'other') return step.operation;
  if (step.kind === 'average_pool' && step.kernel) return 'average of';
  if (step.kind !== 'convolution') return OPERATION_TITLES[step.kind];
  if (isDepthwise(step)) return 'depthwise';
  const before = pass.steps[step.reads[0] ?? 0]?.shape[0] ?? 0;
  const after = step.shape[0] ?? 0;
  if (!isPointwise(step)) return 'convolution';
  return after > 1.5 * before ? 'expand' : after < before / 1.5 ? 'project' : 'mix';
}

function isDepthwise(step: Step): boolean {
  return step.kind === 'convolution' && (step.groups ?? 1) > 1 && step.groups === step.shape[0];
}

function isPointwise(step: Step): boolean {
  return step.kernel?.[0] === 1 && step.kernel[1] === 1;
}

/** A step for someone who sees one for the first time: two sentences at most. */
export function stepText(step: Step, pass: Pass): string {
  const before = pass.steps[step.reads[0] ?? 0]?.shape[0] ?? 0;
  const [after = 0] = step.shape;
  switch (step.kind) {
    case 'input':
      return 'The picture as the network sees it: three maps of numbers, one for each colour. They are shifted and scaled so that the average picture is 0 (normalisation).';
    case 'convolution':
      if (isDepthwise(step))
        return 'Each channel has a small grid of weights of its own, which slides over that channel alone (depthwise convolution). Other channels are not looked at: mixing them is the next step.';
      if (isPointwise(step))
        return `At each position by itself, the ${before} channels are mixed into ${after}, each with a weight of its own (1 × 1 convolution).`;
      return 'A small grid of weights (the kernel) slides over the maps; at each place it multiplies the numbers under it and adds up the products (convolution). A large sum says: the pattern of the kernel is here.';
    case 'linear':
      return step.step === lastLinear(pass)
        ? 'Each class has a weight for each number: multiplied and added up, they are its score (linear layer, logit).'
        : `Each of the ${after.toLocaleString('en')} numbers that come out has a weight for each that comes in: multiplied and added up (linear layer).`;
    case 'add':
      return isResidual(step, pass)
        ? 'What came into the block is added to what the block made of it (residual connection). So the block only has to learn what to change.'
        : step.reads.length > 1
          ? 'Two paths are added, number by number.'
          : 'A fixed number is added to each.';
    case 'multiply':
      if (isGate(step, pass)) return 'Two results are multiplied with each other: one, between 0 and 1, says how much of the other is let through (gate).';
      return step.reads.length > 1 ? 'Two results are multiplied with each other, number by number.' : 'Each number is multiplied by a fixed one.';
    case 'concatenate':
      return 'The channels of several paths are put side by side (concatenation). No number changes.';
    case 'activation':
      return activationText(step.operation);
    case 'max_pool':
      return isSmaller(step, pass)
        ? 'Of each small window only the largest number is kept, and the map gets smaller (max pooling). What was found stays; where exactly is forgotten.'
        : 'Of each small window only the largest number is kept; the map stays as large as it was (max pooling).';
    case 'average_pool':
      return 'The numbers of each window become one, their mean (average pooling). Over a whole map it says how much of a pattern there is, wherever it is.';
    case 'batch_norm':
      return 'Each channel is scaled and shifted by two fixed numbers (batch norm).';
    case 'reshape':
      return 'Numbers are only put in another order or copied; none changes.';
    case 'other':
      return `This operation (${step.operation}) is not taken apart here: the network’s own result is shown.`;
  }
}

/** The step whose sums are the scores; in front of it nothing is of classes yet. */
function lastLinear(pass: Pass): number | undefined {
  return pass.steps.filter((step) => step.kind === 'linear' && step.step <= pass.output.step).at(-1)?.step;
}

/** Whether a step comes of another, at any distance. */
function comesOf(step: number, other: number, pass: Pass): boolean {
  const visited = new Set<number>();
  const open = [step];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    if (next === other) return true;
    if (next < other || visited.has(next)) continue; // steps read only what ran before them
    visited.add(next);
    open.push(...(pass.steps[next]?.reads ?? []));
  }
  return false;
}

/** Whether what came into a block is added to what was made of it: one summand is what the other was made of. */
function isResidual(step: Step, pass: Pass): boolean {
  const [one, other] = step.reads;
  return step.kind === 'add' && one !== undefined && other !== undefined && one !== other && comesOf(Math.max(one, other), Math.min(one, other), pass);
}

/** Whether one of two factors is a share: what a sigmoid, a hard sigmoid or a softmax gives. */
function isGate(step: Step, pass: Pass): boolean {
  const isShare = (read: number): boolean => {
    const source = pass.steps[read];
    if (source?.kind === 'reshape') return source.reads.length === 1 && isShare(source.reads[0] as number);
    return source !== undefined && /^(hard ?sigmoid|sigmoid|softmax)/i.test(source.operation);
  };
  return step.reads.length > 1 && step.reads.some(isShare);
}

function isSmaller(step: Step, pass: Pass): boolean {
  const [, rows = 1, cols = 1] = pass.steps[step.reads[0] ?? -1]?.shape ?? [];
  return (step.shape[1] ?? 1) * (step.shape[2] ?? 1) < rows * cols;
}

function activationText(name: string): string {
  if (name === 'ReLU6') return 'What is below 0 becomes 0, and what is above 6 becomes 6 (ReLU6). Without such a bend, all layers together could do no more than one.';
  if (name === 'ReLU') return 'What is below 0 becomes 0, the rest stays (ReLU). Without such a bend, all layers together could do no more than one.';
  return `Each number by itself goes through a curve (${name}). Without such a bend, all layers together could do no more than one.`;
}

/** What the steps of a layer do together: two sentences at most. */
export function layerText(steps: readonly Step[], pass: Pass): string {
  const last = steps.at(-1);
  if (!last) return '';
  const has = (kind: OperationKind) => steps.some((step) => step.kind === kind);
  const convolutions = steps.filter((step) => step.kind === 'convolution');
  if (has('concatenate')) return 'Several paths look at the same maps, each in its own way. Their channels are put side by side (concatenation).';
  if (steps.some(isDepthwise) && convolutions.length > 1) {
    const way = isDepthwise(convolutions[0] as Step)
      ? 'Each channel is filtered by a kernel of its own, and then they are mixed (depthwise separable convolution).'
      : 'The channels are made more, each is filtered by a kernel of its own, and they are mixed into few again (inverted bottleneck).';
    return steps.some((step) => isResidual(step, pass)) ? `${way} What came in is added again.` : way;
  }
  if (steps.some((step) => isResidual(step, pass))) return 'The maps go through some convolutions, and what came in is added to the result (residual block). So only the change has to be learnt.';
  if (steps.some((step) => step.kind === 'add' && step.reads.length > 1)) return 'Two paths look at the same maps, each in its own way, and their results are added.';
  const main = steps.find((step) => step.kind === 'convolution' || step.kind === 'linear') ?? last;
  return stepText(main, pass);
}

export const END_TEXT = 'Each map becomes one number, its mean; weighted and added up for each class, these are the scores (logits). Made positive and divided by their sum, they are the shares of the answer (softmax).';

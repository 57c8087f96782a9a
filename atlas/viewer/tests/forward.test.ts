import { describe, expect, test } from 'vitest';

import { closeness, factorDigits } from '../src/forward/arithmetic';
import { floats, hasPositions, type OperationKind, type Pass, type Step, type UnitArithmetic } from '../src/forward/pass';
import { curveOf } from '../src/forward/curves';
import { classHeadOf, classHeadWords, isMeanOf, softmaxOf } from '../src/forward/class_scores';
import { layOut } from '../src/forward/flow';
import { photograph, pixels, toneOf } from '../src/forward/map_pixels';
import { patchCorner, firstNumbers, contributionOf, patchAt, sumOf, type KernelSlide } from '../src/forward/sliding_kernel';
import { PassState } from '../src/forward/state.svelte';
import { decimalsFor, figure, full, layerText, shapeWords, signedFigure, significant, size, stepText, stepTitle } from '../src/forward/words';

function step(number: number, kind: OperationKind, reads: number[], shape = [8, 6, 6], more: Partial<Step> = {}): Step {
  return { step: number, name: `step${number}`, kind, operation: kind, shape, reads, layer: 1, folded: null, ...more };
}

const convolution = (number: number, reads: number[], shape: number[], size: number, groups = 1) =>
  step(number, 'convolution', reads, shape, { kernel: [size, size], stride: [1, 1], padding: [[1, 1], [1, 1]], dilation: [1, 1], groups });

const steps: Step[] = [
  step(0, 'input', [], [3, 6, 6], { layer: 0 }),
  convolution(1, [0], [8, 6, 6], 3),
  step(2, 'activation', [1], [8, 6, 6], { operation: 'ReLU6' }),
  convolution(3, [2], [16, 6, 6], 1),
  convolution(4, [3], [16, 6, 6], 3, 16),
  convolution(5, [4], [8, 6, 6], 1),
  step(6, 'add', [5, 2]),
  step(7, 'linear', [6], [5], { layer: 2 }),
];
const pass: Pass = {
  network: 'small',
  size: 6,
  mean: [0.5, 0.5, 0.5],
  std: [0.25, 0.25, 0.25],
  steps,
  layers: [
    { name: 'picture', step: 0, shape: [3, 6, 6], strongest: [{ channel: 0, largest: 1 }] },
    { name: 'block', step: 6, shape: [8, 6, 6], strongest: [{ channel: 4, largest: 2 }] },
  ],
  output: { step: 7, classes: [{ class: 3, logit: 2, probability: 0.6 }], others: 0.4 },
};

describe('the flow', () => {
  test('a residual connection goes over the steps between', () => {
    const { nodes, edges, columns, lanes } = layOut(steps.slice(3, 7));
    expect([columns, lanes]).toEqual([5, 1]);
    expect(nodes.find((node) => node.step === 2)).toMatchObject({ outside: true, column: 0 });
    expect(edges.filter(({ over }) => over).map(({ from, to }) => [from.step, to.step])).toEqual([[2, 6]]);
  });

  test('paths stand side by side, and none stands in the way of another', () => {
    const paths = [step(1, 'convolution', [0]), step(2, 'activation', [1]), step(3, 'convolution', [0]), step(4, 'convolution', [3]), step(5, 'convolution', [4]), step(6, 'concatenate', [2, 5])];
    const { nodes, edges, lanes } = layOut(paths);
    expect(lanes).toBe(2);
    const at = (number: number) => nodes.find((node) => node.step === number);
    expect([at(1)?.lane, at(2)?.lane, at(3)?.lane, at(5)?.lane, at(6)?.lane]).toEqual([0, 0, 1, 1, 0]);
    expect(at(6)?.column).toBe(4);
    expect(edges.every(({ over }) => !over)).toBe(true);
  });
});

describe('the sliding kernel', () => {
  const strided = step(1, 'convolution', [0], [1, 2, 2], { kernel: [3, 3], stride: [2, 2], padding: [[1, 1], [1, 1]], dilation: [1, 1] });
  const sliding: KernelSlide = { input: Float32Array.from([1, 2, 3, 4, 5, 6, 7, 8, 9]), rows: 3, cols: 3, kernel: [[1, 0, 0], [0, 2, 0], [0, 0, -1]], step: strided };

  test('beyond the edge there is 0', () => {
    expect(patchCorner(strided, 0, 1)).toEqual([-1, 1]);
    expect(patchAt(sliding, 0, 1)).toEqual([[0, 0, 0], [2, 3, 0], [5, 6, 0]]);
  });

  test('its part is the sum of the products at every place', () => {
    // 2·1 − 5; 2·3; 2·7; 5 + 2·9
    expect([...contributionOf(sliding)]).toEqual([-3, 6, 14, 23]);
    expect(sumOf([[1, null], [2, 3]])).toBe(6);
  });

  test('dilation leaves out numbers between', () => {
    const apart = { ...strided, stride: [1, 1] as const, dilation: [2, 2] as const, padding: [[2, 2], [2, 2]] as const };
    expect(patchAt({ ...sliding, step: apart }, 0, 0)).toEqual([[0, 0, 0], [0, 1, 3], [0, 7, 9]]);
  });

  test('what is not yet reached is not there', () => {
    expect([...firstNumbers(Float32Array.from([1, 2, 3]), 2)]).toEqual([1, 2, Number.NaN]);
  });
});

describe('maps as pictures', () => {
  test('the tone goes by what a step can give', () => {
    expect(steps.map((step) => toneOf(step, steps))).toEqual(['light', 'signed', 'ink', 'signed', 'signed', 'signed', 'signed', 'signed']);
    expect(toneOf(step(8, 'max_pool', [2]), steps)).toBe('ink');
  });

  test('sign is colour, size is strength, and what is missing is clear', () => {
    const rgba = [...pixels(Float32Array.from([2, -1, 0, Number.NaN]), 'signed')];
    expect(rgba.slice(0, 8)).toEqual([0xd9, 0x5f, 0x02, 255, 0x1b, 0x6c, 0xa8, 128]);
    expect([rgba[11], rgba[15]]).toEqual([0, 0]);
  });

  test('the picture has its colours again', () => {
    const channels = [2, -2, 0].map((value) => Float32Array.from([value]));
    expect([...photograph(channels, pass.mean, pass.std)]).toEqual([255, 0, 128, 255]);
  });

  test('numbers come as little-endian float32', () => {
    expect([...floats(btoa(String.fromCharCode(0, 0, 192, 63, 0, 0, 0, 192)))]).toEqual([1.5, -2]);
  });
});

describe('words and figures', () => {
  test('figures', () => {
    expect([figure(-1.25, 1), signedFigure(0.5, 2), signedFigure(-0.001, 2)]).toEqual(['−1.3', '+0.50', '0.00']);
    expect([size(8955), size(4.8e8), size(3e-7), size(0), size(0.333)]).toEqual(['8,955', '4.8 × 10⁸', '3.0 × 10⁻⁷', '0', '0.333']);
    expect([size(0.00123), size(0.0123)]).toEqual(['0.00123', '0.0123']);
    expect([significant(0.71234567, 4), significant(-6, 4), significant(0.0012345678, 4), significant(1.2341e-6, 4), significant(0.99999, 4), significant(0, 3)]).toEqual(
      ['0.7123', '−6.000', '0.001235', '1.234 × 10⁻⁶', '1.000', '0.00'],
    );
    expect([full(-0.7123456789), full(3)]).toEqual(['−0.712345679', '3']);
    expect([decimalsFor(120), decimalsFor(25), decimalsFor(1.6), decimalsFor(0.4), decimalsFor(0.04)]).toEqual([0, 1, 2, 2, 3]);
    expect([shapeWords([40, 28, 28]), shapeWords([1280, 1, 1]), shapeWords([7])]).toEqual(['40 channels of 28 × 28', '1,280 numbers', '7 numbers']);
  });

  test('steps are called by what they do', () => {
    expect(steps.slice(1).map((step) => stepTitle(step, pass))).toEqual(['convolution', 'ReLU6', 'expand', 'depthwise', 'project', 'add', 'weighted sum']);
    expect(layerText(steps.slice(3, 7), pass)).toContain('inverted bottleneck');
  });

  test('known curves', () => {
    const at = (text: string, x: number) => curveOf(text)?.(x);
    expect(at('min(max(x, 0), 6)', 9)).toBe(6);
    expect(at('min(max(x, -0.5), 2.5)', -3)).toBe(-0.5);
    expect(at('x · min(max(x + 3, 0), 6) / 6', -1)).toBeCloseTo(-1 / 3);
    expect(at('x if x > 0, else 0.2 · x', -2)).toBeCloseTo(-0.4);
    expect(at('x if x > 0, else 1e-05 · x', -2)).toBeCloseTo(-2e-5, 9);
    // The two GELUs differ by 0.0005 at most, and here by more than their own error.
    expect(at('x / 2 · (1 + erf(x / √2))', -2)).toBeCloseTo(-0.0455003, 6);
    expect(at('x / 2 · (1 + tanh(√(2 / π) · (x + 0.044715 · x³)))', -2)).toBeCloseTo(-0.0454023, 6);
    expect([curveOf('something'), curveOf(null)]).toEqual([null, null]);
  });
});

describe('texts of steps', () => {
  const text = (step: Step, others: Step[] = []) => stepText(step, { ...pass, steps: [...steps, ...others] });

  test('what came in is added only where it came in', () => {
    expect(text(steps[6] as Step)).toContain('residual connection');
    const paths = [convolution(8, [2], [8, 6, 6], 1), convolution(9, [2], [8, 6, 6], 3)];
    const sum = step(10, 'add', [8, 9]);
    expect(text(sum, [...paths, sum])).toContain('Two paths are added');
    expect(layerText([...paths, sum], { ...pass, steps: [...steps, ...paths, sum] })).toContain('Two paths look at');
  });

  test('a gate is between 0 and 1', () => {
    const gate = step(8, 'activation', [3], [8, 1, 1], { operation: 'sigmoid' });
    const [gated, plain] = [step(9, 'multiply', [2, 8]), step(10, 'multiply', [2, 6])];
    expect(text(gated, [gate, gated, plain])).toContain('(gate)');
    expect(text(plain, [gate, gated, plain])).not.toContain('gate');
  });

  test('a map gets smaller only where it does, and classes are at the end', () => {
    expect(text(step(8, 'max_pool', [2], [8, 3, 3]))).toContain('gets smaller');
    expect(text(step(8, 'max_pool', [2], [8, 6, 6]))).not.toContain('smaller');
    expect(text(steps[7] as Step)).toContain('Each class has a weight');
    const hidden = { ...pass, output: { ...pass.output, step: 8 }, steps: [...steps, step(8, 'linear', [7], [5])] };
    expect(stepText(steps[7] as Step, hidden)).not.toContain('class');
  });

  test('positions are there to choose where there is more than one', () => {
    expect([[8, 6, 6], [8, 1, 1], [8]].map((shape) => hasPositions({ shape }))).toEqual([true, false, false]);
  });
});

describe('factors and differences', () => {
  test('factors have the digits that their product needs', () => {
    expect([factorDigits(4.283, 3), factorDigits(0.02, 3), factorDigits(428.3, 3), factorDigits(0, 3), factorDigits(1e9, 3)]).toEqual([5, 4, 7, 4, 9]);
    const [one, other] = [6.00012345, 0.71381234];
    const digits = factorDigits(one * other, 3);
    expect(Number(significant(one, digits)) * Number(significant(other, digits))).toBeCloseTo(one * other, 3);
  });

  test('a difference is given as a share of what was added up', () => {
    const term = (sum: number) => ({ step: 0, channel: 0, title: '', y: 0, x: 0, sum, patch: null, kernel: null });
    const unit: UnitArithmetic = { step: 1, channel: 0, y: 0, x: 0, kind: 'linear', value: 1e-6, total: 0, terms: [term(4), term(-3)], other_terms: { count: 2, sum: -2 }, bias: 1, formula: null, inner: null };
    expect(closeness(unit)).toEqual({ difference: 1e-6, share: 1e-7 });
    expect(closeness({ ...unit, kind: 'activation', terms: [term(0)], inner: unit }).share).toBe(1e-7);
    expect(closeness({ ...unit, terms: [], other_terms: null, bias: null }).share).toBeNull();
  });
});

describe('the end', () => {
  const end = (more: Step[], output = more.at(-1)?.step ?? 0): Pass => ({ ...pass, steps: [...steps.slice(0, 6), ...more], output: { ...pass.output, step: output } });
  const activation = step(6, 'activation', [5], [8, 6, 6], { operation: 'ReLU6' });
  const pool = step(7, 'average_pool', [6], [8, 1, 1]);
  const flat = step(8, 'reshape', [7], [8]);
  const linear = step(9, 'linear', [8], [5]);

  test('what the average reads is found behind the activation', () => {
    const ending = end([activation, pool, flat, linear]);
    expect(classHeadOf(ending)).toMatchObject({ linear: { step: 9 }, behind: [], pooled: { step: 6 } });
    expect(classHeadWords(ending)).toBe('pooled features × class weights');
  });

  test('there is no such map where the numbers are no means of maps', () => {
    const bend = step(9, 'activation', [8], [8], { operation: 'hard swish' });
    const wide = step(7, 'average_pool', [6], [8, 3, 3]);
    expect(classHeadOf(end([activation, pool, flat, bend, step(10, 'linear', [9], [5])])).pooled).toBeNull();
    expect(classHeadOf(end([activation, wide, step(8, 'reshape', [7], [72]), linear])).pooled).toBeNull();
    expect(classHeadOf(end([activation, step(7, 'max_pool', [6], [8, 1, 1]), flat, linear])).pooled).toBeNull();
    expect(classHeadWords(end([activation, wide, step(8, 'reshape', [7], [72]), linear]))).toBe('features × class weights');
  });

  test('a scaling after the linear step is named', () => {
    const ending = end([activation, pool, flat, linear, step(10, 'multiply', [9], [5])]);
    expect(classHeadOf(ending)).toMatchObject({ linear: { step: 9 }, behind: [{ step: 10 }], pooled: { step: 6 } });
    expect(classHeadWords(ending)).toBe('pooled features × class weights, then multiply');
  });

  test('other last steps are named as what they are', () => {
    const maps = step(8, 'average_pool', [7], [5]);
    const ending = end([activation, convolution(7, [6], [5, 6, 6], 1), maps]);
    expect(classHeadOf(ending)).toEqual({ linear: null, behind: [], pooled: null });
    expect(classHeadWords(ending)).toBe('the last step: average');
    expect(classHeadWords(end([activation, pool, flat, linear, step(10, 'linear', [8], [5]), step(11, 'add', [9, 10], [5])]))).toBe('the last step: add');
  });

  test('a mean is one but for rounding', () => {
    expect([isMeanOf(2, Float32Array.from([1, 3])), isMeanOf(2.01, Float32Array.from([1, 3])), isMeanOf(0, new Float32Array(0))]).toEqual([true, false, false]);
  });

  test('shares come of the scores alone, however large', () => {
    const logits = [1000, 999, 990];
    const all = 1000 + Math.log(1 + Math.exp(-1) + Math.exp(-10) + 0.5);
    const topClasses = logits.map((logit, index) => ({ class: index, logit, probability: [0.5, 0.25, 0.1][index] as number }));
    const softmax = softmaxOf({ step: 9, classes: topClasses, others: 0.26, log_sum: all });
    expect(softmax?.shares[0]).toBeCloseTo(1 / 1.8679249, 6);
    expect(softmax?.others).toBeCloseTo(0.5 / 1.8679249, 6);
    expect([softmax?.powers[0], softmax?.whole]).toEqual([1, expect.closeTo(1.8679249, 6)]);
    expect(softmax?.largestDifference).toBeCloseTo(0.1, 1); // the given probabilities are not these
    expect(softmaxOf({ step: 9, classes: topClasses, others: 0.26 })).toBeNull();
  });
});

describe('the state of a forward pass', () => {
  function openedAt(layer: number): PassState {
    const state = new PassState(pass);
    state.open(layer);
    return state;
  }

  test('begins at the row, and a layer at its last step', () => {
    expect(new PassState(pass).layerIndex).toBeNull();
    const state = openedAt(1);
    expect([state.layerIndex, state.step, state.channel, state.spot]).toEqual([1, 6, 4, null]);
  });

  test('terms lead on, and the trail leads back', () => {
    const state = openedAt(1);
    state.choosePosition(2, 9);
    expect(state.spot).toEqual({ step: 6, channel: 4, y: 2, x: 5 });
    state.follow({ step: 0, channel: 1, y: 3, x: 3 });
    expect([state.layerIndex, state.trail.length, state.nameOf(state.step)]).toEqual([0, 1, 'the picture']);
    state.back(0);
    expect([state.spot, state.trail.length]).toEqual([{ step: 6, channel: 4, y: 2, x: 5 }, 0]);
  });

  test('the kernel can be watched at a convolution and right behind it', () => {
    const state = openedAt(1);
    expect(state.slidingStep).toBeNull();
    state.chooseStep(4);
    state.mode = 'slide';
    expect(state.slidingStep?.step).toBe(4);
    state.chooseStep(2);
    expect(state.slidingStep?.step).toBe(1);
    state.chooseStep(6);
    expect(state.mode).toBe('number');
  });

  test('the end shows the likeliest class', () => {
    const state = openedAt(2);
    expect([state.atEnd, state.spot]).toEqual([true, { step: 7, channel: 3, y: 0, x: 0 }]);
  });
});

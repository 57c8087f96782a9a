/** What is shown of the forward pass. */

import { toneOf, type Tone } from './map_pixels';
import { hasPositions, type PassLayer, type Pass, type Spot, type Step } from './pass';

export class PassState {
  readonly pass: Pass;
  /** The open layer; null shows the row alone, and layers.length is what follows the last layer: the classes. */
  layerIndex = $state<number | null>(null);
  step = $state(0);
  channel = $state(0);
  /** Null until the map is there, of which the largest number is taken. */
  y = $state<number | null>(null);
  x = $state<number | null>(null);
  /** The numbers by which the present one was reached. */
  trail = $state.raw<readonly Spot[]>([]);
  /** What is shown of the step. */
  mode = $state<'number' | 'slide'>('number');
  /** The class whose score is shown in the end. */
  classIndex = $state(0);
  explanations = $state(true);

  constructor(pass: Pass) {
    this.pass = pass;
    this.classIndex = pass.output.classes[0]?.class ?? 0;
  }

  get currentStep(): Step {
    return this.pass.steps[this.step] as Step;
  }

  get openLayer(): PassLayer | null {
    return this.layerIndex === null ? null : (this.pass.layers[this.layerIndex] ?? null);
  }

  /** Whether what follows the last layer is open. */
  get atEnd(): boolean {
    return this.layerIndex === this.pass.layers.length;
  }

  get spot(): Spot | null {
    return this.y === null || this.x === null ? null : { step: this.step, channel: this.channel, y: this.y, x: this.x };
  }

  /** The steps of a layer; of the end, those up to the logits. */
  steps(layerIndex: number): Step[] {
    return this.pass.steps.filter((step) => step.layer === layerIndex && step.step <= this.pass.output.step);
  }

  open(layerIndex: number, channel?: number): void {
    const row = this.pass.layers[layerIndex];
    const step = row?.step ?? this.pass.output.step;
    this.layerIndex = layerIndex;
    this.trail = [];
    this.#go(step, channel ?? row?.strongest[0]?.channel ?? this.classIndex);
    if (!row) [this.y, this.x] = [0, 0];
  }

  close(): void {
    this.layerIndex = null;
    this.trail = [];
  }

  /** Another step of the open layer; the channel stays where the step has one of this number. */
  chooseStep(step: number): void {
    if (step === this.step) return;
    this.trail = [];
    const { shape } = this.pass.steps[step] as Step;
    if (step === this.pass.output.step) this.#go(step, this.classIndex);
    else this.#go(step, this.channel < (shape[0] ?? 1) ? this.channel : 0);
  }

  chooseChannel(channel: number): void {
    this.trail = [];
    this.#go(this.step, channel);
  }

  choosePosition(y: number, x: number): void {
    this.trail = [];
    const [, rows = 1, cols = 1] = this.currentStep.shape;
    this.y = Math.min(Math.max(y, 0), rows - 1);
    this.x = Math.min(Math.max(x, 0), cols - 1);
  }

  /** Go on to a number that the present one reads. */
  follow(spot: Spot): void {
    if (this.spot) this.trail = [...this.trail, this.spot];
    this.#show(spot);
  }

  /** Back to a number of the trail. */
  back(index: number): void {
    const spot = this.trail[index];
    if (!spot) return;
    this.trail = this.trail.slice(0, index);
    this.#show(spot);
  }

  #show(spot: Spot): void {
    this.layerIndex = this.pass.steps[spot.step]?.layer ?? this.layerIndex;
    this.#go(spot.step, spot.channel);
    [this.y, this.x] = [spot.y, spot.x];
  }

  #go(step: number, channel: number): void {
    this.step = step;
    this.channel = channel;
    [this.y, this.x] = hasPositions(this.currentStep) ? [null, null] : [0, 0];
    if (!this.slidingStep) this.mode = 'number';
  }

  /** The convolution whose kernel can be watched here: the step itself, or the one right before it. */
  get slidingStep(): Step | null {
    let step: Step | undefined = this.currentStep;
    while (step && (step.kind === 'activation' || step.kind === 'batch_norm')) step = this.pass.steps[step.reads[0] ?? -1];
    return step?.kind === 'convolution' && step.kernel ? step : null;
  }

  tone(step: number): Tone {
    return toneOf(this.pass.steps[step] as Step, this.pass.steps);
  }

  /** The layer's name for a step that ends one, else the step's own. */
  nameOf(step: number): string {
    if (this.pass.steps[step]?.kind === 'input') return 'the picture';
    return this.pass.layers.find((layer) => layer.step === step)?.name ?? this.pass.steps[step]?.name ?? `step ${step}`;
  }
}

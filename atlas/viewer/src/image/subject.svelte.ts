/** One picture and all the server's answers about it; a new picture, or closing, stops all work for the former one. */

import { untrack } from 'svelte';

import {
  askLimits,
  askSamples,
  explain,
  explainClasses,
  explainRemoved,
  fetchSample,
  isAbort,
  type Attributions,
  type ExplainedLayer,
  type Limits,
  type Sample,
  type Explanation,
} from '../lib/api';
import { classesOf, errorText, type AtlasMap } from '../lib/atlas';
import type { Point } from '../lib/levels';
import type { PageState } from '../lib/page_state.svelte';
import { Groups } from './grouping.svelte';
import { Icons } from './icons.svelte';
import { Jobs, type Job } from './jobs.svelte';
import { middleOf, positionAt } from './positions';
import { isMiddle, squareOf } from './sheet';
import type { PictureOverlay } from './state';
import { pictureAmong, refuseLarge } from './upload';

/** How an effect is known: estimated to first order, or by taking each position out. */
type EffectMethod = 'estimated' | 'removed';

/** A picture to be explained. */
interface PictureSource {
  blob: Blob;
  name: string;
  note: string | null;
}

export class Subject {
  readonly pageState: PageState;
  open = $state(false);
  /** Whether the server has its network at hand; it begins to load it when it is first asked. */
  ready = $state(true);
  samples = $state.raw<readonly Sample[]>([]);
  picture = $state.raw<{ blob: Blob; name: string } | null>(null);
  /** The square that the network sees; null until it is read, and where this browser cannot show it. */
  square = $state.raw<HTMLCanvasElement | null>(null);
  summary = $state.raw<Explanation | null>(null);
  problem = $state<string | null>(null);
  note = $state<string | null>(null);
  overlay = $state<PictureOverlay>('nothing');
  method = $state<EffectMethod>('estimated');
  /** The chosen place, as shares of the square: the same for all layers. */
  place = $state.raw<Point | null>(null);
  /** The place that is pointed at, on the picture or on the map. */
  pointedPlace = $state.raw<Point | null>(null);

  readonly #jobs = new Jobs((error) => this.#fail(error));
  #ownClasses = $state.raw<readonly number[]>([]);
  #furtherByNetwork = $state.raw<Record<number, Attributions>>({});
  #removalsByLayer = $state.raw<Record<string, Record<string, number[]>>>({});
  /** Restores the last explained picture, as long as the new one has no explanation. */
  #restorePrevious: (() => void) | null = null;

  readonly icons = new Icons(this, this.#jobs);
  readonly groups = new Groups(this, this.#jobs);

  constructor(pageState: PageState) {
    this.pageState = pageState;
  }

  /** Progress of each running job, 0 to 1; jobs that do not run have no entry. */
  get progress(): Partial<Record<Job, number>> {
    return this.#jobs.progress;
  }

  /** The layer itself, where the map shows one of its maps of classes. */
  readonly wholeMap = $derived.by<AtlasMap>(() => this.wholeMapOf(this.pageState.atlasMap));
  readonly names = $derived.by(() => classesOf(this.pageState.atlas, this.wholeMap));
  readonly explainedLayer = $derived.by(() => this.layerOf(this.wholeMap));
  readonly top = $derived.by(() => this.summary?.networks[this.wholeMap.network]?.classes ?? []);
  /** Classes that the reader has chosen: the map's own, where it has them. */
  readonly chosenClasses = $derived.by(() => (this.pageState.atlas.attributions ? this.pageState.classes : this.#ownClasses));
  /** The class or the two classes whose effects are shown: without a choice the likeliest one. */
  readonly classes = $derived.by(() => (this.chosenClasses.length ? this.chosenClasses : this.top.slice(0, 1).map((entry) => entry.class)));
  readonly position = $derived.by(() => (this.place && this.explainedLayer ? positionAt(this.explainedLayer, this.place) : null));
  /** What is pointed at, or else chosen: the place, and the position of the shown layer that holds it. */
  readonly markedPlace = $derived.by(() => this.pointedPlace ?? this.place);
  readonly markedPosition = $derived.by(() => (this.markedPlace && this.explainedLayer ? positionAt(this.explainedLayer, this.markedPlace) : null));
  readonly estimatedEffects = $derived.by(() => this.#effectsOf((name) => this.explainedLayer?.attribution[name] ?? this.#furtherAttribution(name)));
  readonly removalEffects = $derived.by(() => this.#effectsOf((name) => this.#removalsByLayer[this.explainedLayer?.path ?? '']?.[name]));
  /** What each position adds to the class, or to the first of two against the second, in logits. */
  readonly effects = $derived.by(() => (this.method === 'removed' && this.removalEffects ? this.removalEffects : this.estimatedEffects));

  /** The layer itself of which a map of classes shows a part. */
  wholeMapOf(atlasMap: AtlasMap): AtlasMap {
    if (atlasMap.classes_shown.length === 0) return atlasMap;
    const same = (candidate: AtlasMap) => candidate.layer === atlasMap.layer && candidate.network === atlasMap.network && candidate.classes_shown.length === 0;
    return this.pageState.atlas.layers.find(same) ?? atlasMap;
  }

  /** The explained layer of a layer's own map; null for maps of classes, whose places are their own. */
  layerOf(atlasMap: AtlasMap): ExplainedLayer | null {
    return (atlasMap.classes_shown.length === 0 && this.summary?.layers.find((layer) => layer.path === atlasMap.path)) || null;
  }

  #furtherAttribution(name: string): number[] | undefined {
    const layer = this.explainedLayer;
    return layer ? this.#furtherByNetwork[layer.network]?.[name]?.[layer.path] : undefined;
  }

  /** Values of one class, or the first of two less the second; null where one is not there yet. */
  #effectsOf(of: (name: string) => number[] | undefined): number[] | null {
    const [first, second] = this.classes.map((index) => of(String(index)));
    if (!first || (this.classes.length === 2 && !second)) return null;
    return second ? first.map((value, i) => value - (second[i] as number)) : first;
  }

  // Opening, uploading, closing

  openPanel(): void {
    this.#show();
    void this.#jobs.run('limits', async (signal) => void (await this.#askLimits(signal)));
  }

  #show(): void {
    this.open = true;
    if (this.samples.length === 0) {
      void this.#jobs.run('samples', async (signal) => {
        const samples = await askSamples(signal);
        if (!signal.aborted) this.samples = samples;
      });
    }
  }

  /** Close, and stop all running jobs. */
  close(): void {
    this.open = false;
    this.stop('samples');
    this.#restorePrevious = null;
    this.cancel();
  }

  /** Take what was dropped, pasted or chosen; what is no picture leaves the former one as it is. */
  async take(files: readonly File[]): Promise<void> {
    this.#show();
    this.problem = null;
    try {
      const { file, note } = pictureAmong(files);
      await this.#take(async (signal) => {
        refuseLarge(file, await this.#askLimits(signal));
        return { blob: file, name: file.name, note };
      });
    } catch (error) {
      this.#fail(error);
    }
  }

  async takeSample(sample: Sample): Promise<void> {
    this.problem = null;
    await this.#take(async (signal) => ({ blob: await fetchSample(sample, signal), name: sample.title, note: null }));
  }

  /** Explain a picture once it is there; of several in quick succession only the last one. */
  async #take(bring: (signal: AbortSignal) => Promise<PictureSource>): Promise<void> {
    let upload = null as PictureSource | null;
    await this.#jobs.run('given', async (signal) => {
      const incoming = await bring(signal);
      if (!signal.aborted) upload = incoming;
    });
    if (upload) await this.#explain(upload);
  }

  /** Show why an upload cannot be used. */
  refuse(sentence: string): void {
    this.openPanel();
    this.problem = sentence;
  }

  /** Drop the picture that is being explained, and stop all work for it: the former one is restored, if there was one. */
  cancel(): void {
    this.#jobs.stopAll('samples');
    this.#restore();
  }

  /** Have the server load its network before there is a picture; an error is shown only when there is one. */
  prepare(): void {
    void askLimits(new AbortController().signal).catch(() => undefined);
  }

  /** What the server takes, and whether it is ready. */
  async #askLimits(signal: AbortSignal): Promise<Limits> {
    const { ready, limits } = await askLimits(signal);
    this.ready = ready;
    return limits;
  }

  async #explain({ blob, name, note }: PictureSource): Promise<void> {
    if (this.summary) this.#restorePrevious = this.#snapshot();
    this.#jobs.stopAll('samples');
    this.#clear();
    this.note = note;
    this.picture = { blob, name };
    await this.#jobs.run('summary', async (signal) => {
      const square = this.#cropSquare(blob, null, signal);
      try {
        const summary = await explain(blob, signal);
        await square;
        if (signal.aborted) return;
        this.ready = true;
        this.#restorePrevious = null;
        this.summary = summary;
      } catch (error) {
        if (!signal.aborted) this.#restore();
        throw error;
      }
      const { picture } = this.summary;
      if (!isMiddle(picture)) await this.#cropSquare(blob, picture, signal);
    });
  }

  /** A function that restores all answers about the present picture; requests that were running are not resumed. */
  #snapshot(): () => void {
    const { picture, square, summary, place, note, method } = this;
    const [more, removed, icons, groups] = [this.#furtherByNetwork, this.#removalsByLayer, this.icons.snapshot(), this.groups.snapshot()];
    return () => {
      Object.assign(this, { picture, square, summary, place, note, method });
      [this.#furtherByNetwork, this.#removalsByLayer] = [more, removed];
      icons();
      groups();
    };
  }

  #restore(): void {
    this.#clear();
    this.picture = null;
    this.#restorePrevious?.();
    this.#restorePrevious = null;
    this.icons.drawCount += 1;
  }

  async #cropSquare(blob: Blob, crop: Explanation['picture'] | null, signal: AbortSignal): Promise<void> {
    try {
      const square = await squareOf(blob, crop);
      if (!signal.aborted && this.picture?.blob === blob) this.square = square; // else it was refused meanwhile
    } catch {
      // The server decides whether it is a picture; where only the browser cannot read it, the page says so.
    }
  }

  #clear(): void {
    this.square = this.summary = this.place = this.pointedPlace = this.problem = this.note = null;
    this.#furtherByNetwork = {};
    this.#removalsByLayer = {};
    this.icons.clear();
    this.groups.clear();
    this.method = 'estimated';
  }

  // Further requests

  /** Choose a class, or leave it; of more than two the longest chosen one goes. */
  toggle(index: number): void {
    const others = this.chosenClasses.filter((other) => other !== index);
    const next = others.length < this.chosenClasses.length ? others : [...others.slice(-1), index];
    if (this.pageState.atlas.attributions) this.pageState.classes = next;
    else this.#ownClasses = next;
  }

  /** Attributions of chosen classes that did not come with the summary. */
  completeClasses(): void {
    const [picture, layer] = [this.picture, this.explainedLayer];
    if (!picture || !layer) return;
    const missing = this.classes.filter((index) => !layer.attribution[index] && !this.#furtherAttribution(String(index)));
    untrack(() => {
      this.stop('classes');
      if (!missing.length) return;
      void this.#jobs.run('classes', async (signal) => {
        const attributions = await explainClasses(picture.blob, layer.network, missing, signal);
        if (!signal.aborted) this.#furtherByNetwork = { ...this.#furtherByNetwork, [layer.network]: { ...this.#furtherByNetwork[layer.network], ...attributions } };
      });
    });
  }

  /** Take each position of the layer out, for the classes whose effects are shown. */
  takeOut(): void {
    const [picture, layer, classes] = [this.picture, this.explainedLayer, this.classes];
    if (!picture || !layer) return;
    void this.#jobs.run('removed', async (signal) => {
      for await (const progress of explainRemoved(picture.blob, layer.path, classes, signal)) {
        if (signal.aborted) return;
        if ('share' in progress) this.#jobs.report('removed', progress.share);
        else {
          this.#removalsByLayer = { ...this.#removalsByLayer, [layer.path]: { ...this.#removalsByLayer[layer.path], ...progress.classes } };
          this.method = 'removed';
        }
      }
    });
  }

  /** A removal belongs to one layer and its classes: with others it stops. */
  endRemoval(): void {
    void [this.explainedLayer, this.classes.join()];
    untrack(() => this.stop('removed'));
  }

  /** Choose a position of a layer. */
  choose(layer: ExplainedLayer, position: number): void {
    this.place = middleOf(layer, position);
  }

  /** Point at a position of a layer, or at none. */
  point(layer: ExplainedLayer | null, position: number | null): void {
    const next = layer && position !== null ? middleOf(layer, position) : null;
    if (next?.x !== this.pointedPlace?.x || next?.y !== this.pointedPlace?.y) this.pointedPlace = next;
  }

  /** End one piece of work. */
  stop(job: Job): void {
    this.#jobs.stop(job);
  }

  #fail(error: unknown): void {
    if (isAbort(error)) return;
    this.problem = errorText(error, (what) => `Something in this page went wrong (${what}). Give the picture again; if that does not help, load the page again.`);
  }
}

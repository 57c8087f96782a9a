/** The icons of one picture's positions: the server draws those of the shown layer, one by one, while they are shown. */

import { untrack } from 'svelte';

import { explainIcons } from '../lib/api';
import type { Jobs } from './jobs.svelte';
import { IconSheet, decodePicture } from './sheet';
import type { IconState } from './state';

export class Icons {
  /** Counts what was drawn on the sheets, which are no state of their own. */
  drawCount = $state(0);
  readonly #state: IconState;
  readonly #jobs: Jobs;
  #sheets = new Map<string, IconSheet>();
  /** The layer whose icons are being drawn. */
  #drawing = '';

  constructor(state: IconState, jobs: Jobs) {
    this.#state = state;
    this.#jobs = jobs;
  }

  /** The icons of the shown layer. */
  readonly sheet = $derived.by(() => {
    void this.drawCount;
    const layer = this.#state.explainedLayer;
    return (layer && this.#sheets.get(layer.path)) ?? null;
  });
  /** How many positions of the shown layer have their own icon. */
  readonly own = $derived.by(() => {
    void this.drawCount;
    return this.sheet?.own.size ?? 0;
  });

  /** Draw the icons of the shown layer where they are shown; stop those of another layer. */
  follow(): void {
    const { explainedLayer: layer, overlay } = this.#state;
    if (!layer || this.#drawing === layer.path) return;
    untrack(() => {
      this.#jobs.stop('icons');
      this.#jobs.stop('stand-ins');
      if (overlay === 'icons' && !this.#sheets.get(layer.path)?.halted) this.draw();
    });
  }

  draw(): void {
    const { picture, explainedLayer: layer, wholeMap: atlasMap, pageState } = this.#state;
    if (!picture || !layer) return;
    const sheet = this.#sheets.get(layer.path) ?? new IconSheet(layer);
    const total = layer.rows * layer.cols;
    this.#sheets.set(layer.path, sheet);
    sheet.halted = false;
    if (sheet.own.size === total) return;
    this.#drawing = layer.path;
    this.drawCount += 1;
    void this.#jobs.run('stand-ins', (signal) => sheet.standIn(pageState.atlas, atlasMap, layer, signal, () => (this.drawCount += 1)));
    void this.#jobs.run('icons', async (signal) => {
      for await (const { position, picture: address } of explainIcons(picture.blob, layer.path, signal)) {
        const icon = await decodePicture(address);
        if (signal.aborted) return;
        sheet.put(position, icon);
        icon.close();
        this.#jobs.report('icons', sheet.own.size / total);
        this.drawCount += 1;
      }
    }).finally(() => {
      if (this.#drawing === layer.path && this.#jobs.progress.icons === undefined) this.#drawing = '';
    });
  }

  halt(): void {
    this.#jobs.stop('icons');
    if (this.sheet) this.sheet.halted = true;
    this.#drawing = '';
    this.drawCount += 1;
  }

  /** A function that restores the present sheets. */
  snapshot(): () => void {
    const sheets = this.#sheets;
    return () => (this.#sheets = sheets);
  }

  clear(): void {
    this.#sheets = new Map();
    this.#drawing = '';
  }
}

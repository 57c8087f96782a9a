/** The groups of one picture's positions that go together, a layer at a time, and their icons. */

import { untrack } from 'svelte';

import { explainGroups, type Grouping } from '../lib/api';
import type { Jobs } from './jobs.svelte';
import { decodePicture } from './sheet';
import type { PictureState } from './state';

/** The groups of a layer, and their icons as far as they are there. */
interface LayerGroups {
  grouping: Grouping;
  icons: readonly (ImageBitmap | null)[];
}

export class Groups {
  /** The number of groups to look for. */
  count = $state(6);
  /** The group that is pointed at. */
  pointedGroup = $state<number | null>(null);
  readonly #state: PictureState;
  readonly #jobs: Jobs;
  #byLayer = $state.raw<Record<string, LayerGroups>>({});

  constructor(state: PictureState, jobs: Jobs) {
    this.#state = state;
    this.#jobs = jobs;
  }

  /** The groups of the shown layer; null where none were requested. */
  readonly layerGroups = $derived.by(() => this.#byLayer[this.#state.explainedLayer?.path ?? ''] ?? null);
  /** Where in the picture the group is that is pointed at. */
  readonly mask = $derived.by(() => (this.pointedGroup !== null && this.layerGroups?.grouping.groups[this.pointedGroup]?.mask) || null);

  make(): void {
    const { picture, explainedLayer: layer } = this.#state;
    if (!picture || !layer) return;
    this.pointedGroup = null;
    void this.#jobs.run('groups', async (signal) => {
      let groups: LayerGroups | null = null as LayerGroups | null;
      for await (const answer of explainGroups(picture.blob, layer.path, this.count, signal)) {
        if ('groups' in answer) groups = { grouping: answer, icons: answer.groups.map(() => null) };
        else if (groups) groups = withIcon(groups, answer.group, await decodePicture(answer.picture));
        if (signal.aborted || !groups) return;
        this.#byLayer = { ...this.#byLayer, [layer.path]: groups };
        this.#jobs.report('groups', groups.icons.filter(Boolean).length / groups.icons.length);
      }
    });
  }

  /** Groups are of one layer: another layer stops a running search. */
  follow(): void {
    void this.#state.explainedLayer;
    untrack(() => {
      this.#jobs.stop('groups');
      this.pointedGroup = null;
    });
  }

  /** A function that restores the present groups. */
  snapshot(): () => void {
    const groups = this.#byLayer;
    return () => (this.#byLayer = groups);
  }

  clear(): void {
    this.#byLayer = {};
    this.pointedGroup = null;
  }
}

function withIcon({ grouping, icons }: LayerGroups, group: number, icon: ImageBitmap): LayerGroups {
  return { grouping, icons: icons.map((former, i) => (i === group ? icon : former)) };
}

/** The groups of one picture's positions that go together, a layer at a time, and their icons. */

import { untrack } from 'svelte';

import { explainGroups, type Grouping } from '../lib/api';
import type { Jobs } from './jobs.svelte';
import { pictureOf } from './sheet';
import type { PictureState } from './state';

/** The groups of a layer, and their icons as far as they are there. */
interface Grouped {
  grouping: Grouping;
  icons: readonly (ImageBitmap | null)[];
}

export class Groups {
  /** How many are to be found. */
  count = $state(6);
  /** The group that is pointed at. */
  pointed = $state<number | null>(null);
  readonly #state: PictureState;
  readonly #jobs: Jobs;
  #found = $state.raw<Record<string, Grouped>>({});

  constructor(state: PictureState, jobs: Jobs) {
    this.#state = state;
    this.#jobs = jobs;
  }

  /** Those of the shown layer; null where none were asked for. */
  readonly found = $derived.by(() => this.#found[this.#state.explained?.path ?? ''] ?? null);
  /** Where in the picture the group is that is pointed at. */
  readonly mask = $derived.by(() => (this.pointed !== null && this.found?.grouping.groups[this.pointed]?.mask) || null);

  make(): void {
    const { picture, explained: layer } = this.#state;
    if (!picture || !layer) return;
    this.pointed = null;
    void this.#jobs.run('groups', async (signal) => {
      let groups: Grouped | null = null as Grouped | null;
      for await (const told of explainGroups(picture.blob, layer.path, this.count, signal)) {
        if ('groups' in told) groups = { grouping: told, icons: told.groups.map(() => null) };
        else if (groups) groups = withIcon(groups, told.group, await pictureOf(told.picture));
        if (signal.aborted || !groups) return;
        this.#found = { ...this.#found, [layer.path]: groups };
        this.#jobs.tell('groups', groups.icons.filter(Boolean).length / groups.icons.length);
      }
    });
  }

  /** Groups are of one layer: another one ends those under way. */
  follow(): void {
    void this.#state.explained;
    untrack(() => {
      this.#jobs.stop('groups');
      this.pointed = null;
    });
  }

  /** What brings the groups back that are there now. */
  keep(): () => void {
    const found = this.#found;
    return () => (this.#found = found);
  }

  clear(): void {
    this.#found = {};
    this.pointed = null;
  }
}

function withIcon({ grouping, icons }: Grouped, group: number, icon: ImageBitmap): Grouped {
  return { grouping, icons: icons.map((each, i) => (i === group ? icon : each)) };
}

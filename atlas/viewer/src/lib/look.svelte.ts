/** What is on the screen besides the view: the part of the page's state that a link holds. */

import { classesOf, gridSizes, middleLayer, type Atlas, type Layer } from './atlas';
import { DEFAULTS, formatLink, type Arrangement, type Link, type Low, type Place, type Side, type View } from './link';

export class Look {
  readonly atlas: Atlas;
  layer: Layer = $state.raw() as Layer;
  /** The second map, or null. */
  other = $state.raw<Layer | null>(null);
  level = $state<number | null>(null);
  patches = $state<number>(DEFAULTS.patches);
  /** Numbers of one class or two, of the first map's network. */
  classes = $state.raw<readonly number[]>([]);
  side = $state<Side>(DEFAULTS.side);
  strength = $state<number>(DEFAULTS.strength);
  cells = $state.raw<readonly Place[]>([]);
  how = $state<Arrangement>(DEFAULTS.how);
  at = $state<number>(DEFAULTS.at);
  density = $state<number>(DEFAULTS.density);
  labels = $state<boolean>(DEFAULTS.labels);
  low = $state<Low>(DEFAULTS.low);

  /** What the link named and this atlas does not have, in words. */
  missing: string[] = [];

  constructor(atlas: Atlas, link: Link) {
    this.atlas = atlas;
    this.layer = middleLayer(atlas);
    this.apply(link);
  }

  /** Show what a link says; what it leaves out is as it is by default. */
  apply(link: Link): void {
    const named = (path: string | undefined) => this.atlas.layers.find((each) => each.path === path);
    this.layer = named(link.layer) ?? this.layer;
    this.other = named(link.with === this.layer.path ? undefined : link.with) ?? null;
    this.level = this.allowed(link.level ?? null);
    const names = classesOf(this.atlas, this.layer);
    this.classes = this.atlas.attributions ? (link.classes ?? []).map((name) => names.indexOf(name)).filter((index) => index >= 0) : [];
    this.cells = (link.cells ?? []).filter(({ grid }) => this.allowed(grid) !== null);
    this.patches = link.patches ?? DEFAULTS.patches;
    this.side = link.side ?? DEFAULTS.side;
    this.strength = link.strength ?? DEFAULTS.strength;
    this.how = link.how ?? DEFAULTS.how;
    this.at = link.at ?? DEFAULTS.at;
    this.density = link.density ?? DEFAULTS.density;
    this.labels = link.labels ?? DEFAULTS.labels;
    this.low = link.low ?? DEFAULTS.low;
    const lost = (name: string, wanted: string | number | undefined, found: boolean) =>
      wanted === undefined || found ? [] : [`${name} ${wanted}`];
    this.missing = [
      ...lost('layer', link.layer, named(link.layer) !== undefined),
      ...lost('layer', link.with, named(link.with) !== undefined),
      ...lost('level', link.level, this.level !== null),
      ...(link.classes ?? []).flatMap((name) => lost('class', name, names.includes(name))),
    ];
  }

  /** Go to another layer: a class that its network does not have and cells of the former one are left behind. */
  choose(layer: Layer, cells: readonly Place[] = []): void {
    const [before, after] = [classesOf(this.atlas, this.layer), classesOf(this.atlas, layer)];
    this.classes = this.classes.map((index) => after.indexOf(before[index] as string)).filter((index) => index >= 0);
    this.layer = layer;
    if (this.other === layer) this.other = null;
    this.level = this.allowed(this.level);
    this.cells = cells;
  }

  /** A level that the layer has, or null. */
  allowed(level: number | null): number | null {
    return level !== null && gridSizes(this.layer).includes(level) ? level : null;
  }

  link(view: View): string {
    return formatLink({ ...this.#lasting(), view, patches: this.patches, strength: this.strength, at: this.at, density: this.density });
  }

  /** What makes a step of its own in the browser's history: all but the view and what is set by sliders. */
  get step(): string {
    return formatLink({ ...this.#lasting(), strength: DEFAULTS.strength });
  }

  #lasting(): Link {
    const names = classesOf(this.atlas, this.layer);
    return {
      layer: this.layer.path,
      classes: this.classes.map((index) => names[index] as string),
      side: this.side,
      cells: [...this.cells],
      how: this.how,
      labels: this.labels,
      low: this.low,
      ...(this.level === null ? {} : { level: this.level }),
      ...(this.other === null ? {} : { with: this.other.path }),
    };
  }
}

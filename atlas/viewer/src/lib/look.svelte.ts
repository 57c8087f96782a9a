/** What is on the screen besides the view: the part of the page's state that a link holds. */

import { classesOf, gridSizes, openingMap, type Atlas, type AtlasMap, type UnitLayer } from './atlas';
import { DEFAULTS, formatLink, type Arrangement, type Link, type Low, type Order, type Place, type Side, type Unit, type View } from './link';
import { classNumber, className } from './words';

/** By the effects on a class, by its number in the layer's network; or the units that answer like one. */
export type Narrowed = { class: number } | { like: number };

/** What the view of neurons shows: a layer's units, or one of them, or what builds it. */
export interface Opened {
  layer: string;
  unit: number | null;
  circuit: boolean;
  /** What the list is narrowed to, in place of an order of all. */
  narrowed?: Narrowed | null;
}

export class Look {
  readonly atlas: Atlas;
  atlasMap: AtlasMap = $state.raw() as AtlasMap;
  /** The second map, or null. */
  secondMap = $state.raw<AtlasMap | null>(null);
  level = $state<number | null>(null);
  patches = $state<number>(DEFAULTS.patches);
  #classes = $state.raw<readonly number[]>([]);
  side = $state<Side>(DEFAULTS.side);
  strength = $state<number>(DEFAULTS.strength);
  cells = $state.raw<readonly Place[]>([]);
  how = $state<Arrangement>(DEFAULTS.how);
  at = $state<number>(DEFAULTS.at);
  density = $state<number>(DEFAULTS.density);
  labels = $state<boolean>(DEFAULTS.labels);
  low = $state<Low>(DEFAULTS.low);
  /** The unit that lights up on its layer's map, in place of classes. */
  lit = $state.raw<Unit | null>(null);
  /** The view of neurons over the map; null where the map is seen. */
  neurons = $state.raw<Opened | null>(null);
  /** The order in which it lists units. */
  order = $state<Order>(DEFAULTS.order);

  /** What the link named and this atlas does not have, in words. */
  missing: string[] = [];

  constructor(atlas: Atlas, link: Link) {
    this.atlas = atlas;
    this.atlasMap = openingMap(atlas);
    this.apply(link);
  }

  /** Numbers of one class or two, of the first map's network; they take the place of a unit. */
  get classes(): readonly number[] {
    return this.#classes;
  }

  set classes(classes: readonly number[]) {
    this.#classes = classes;
    if (classes.length) this.lit = null;
  }

  /** Show what a link says; what it leaves out is as it is by default. */
  apply(link: Link): void {
    const named = (path: string | undefined) => this.atlas.layers.find((each) => each.path === path);
    this.atlasMap = named(link.layer) ?? this.atlasMap;
    this.secondMap = named(link.with === this.atlasMap.path ? undefined : link.with) ?? null;
    this.level = this.allowed(link.level ?? null);
    const names = classesOf(this.atlas, this.atlasMap);
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
    this.lit = link.lit && this.#known(link.lit) && this.#seen(link.lit) && !this.classes.length ? link.lit : null;
    this.neurons = this.#opened(link);
    this.order = link.order ?? DEFAULTS.order;
    const lost = (name: string, wanted: string | number | undefined, found: boolean) =>
      wanted === undefined || found ? [] : [`${name} ${wanted}`];
    this.missing = [
      ...lost('layer', link.layer, named(link.layer) !== undefined),
      ...lost('layer', link.with, named(link.with) !== undefined),
      ...lost('level', link.level, this.level !== null),
      ...(link.classes ?? []).flatMap((name) => lost('class', name, names.includes(name))),
      ...[link.unit, link.lit].flatMap((each) => lost('unit', each && `${each.unit} of ${each.layer}`, this.#known(each))),
      ...lost('class', this.neurons ? link.for : undefined, Boolean(this.neurons?.narrowed)),
      ...lost('units of', link.unit ? undefined : link.neurons, this.units(link.neurons) !== undefined),
    ];
  }

  /** What is there of a layer's units. */
  units(layer: string | undefined): UnitLayer | undefined {
    return this.atlas.neurons?.layers.find((each) => each.layer === layer);
  }

  /** Light up a unit on its layer's map, or nothing. */
  light(unit: Unit | null): void {
    if (unit) {
      const atlasMap = this.atlas.layers.find((each) => each.path === unit.layer);
      if (atlasMap && !this.#seen(unit)) this.choose(atlasMap);
      this.classes = [];
      this.neurons = null;
    }
    this.lit = unit;
  }

  #known(unit: Unit | undefined): boolean {
    return unit !== undefined && unit.unit < (this.units(unit.layer)?.units ?? 0);
  }

  #seen({ layer }: Unit): boolean {
    return this.atlasMap.path === layer || this.secondMap?.path === layer;
  }

  #opened(link: Link): Opened | null {
    const { neurons, unit, show } = link;
    if (unit && this.#known(unit)) return { ...unit, circuit: show === 'circuit', narrowed: this.#narrowed(unit.layer, link) };
    const layer = this.units(unit?.layer) ?? this.units(neurons);
    return layer ? { layer: layer.layer, unit: null, circuit: false, narrowed: this.#narrowed(layer.layer, link) } : null;
  }

  #narrowed(layer: string, link: Link): Narrowed | null {
    if (link.for !== undefined) {
      const index = this.atlas.attributions ? classNumber(this.unitClasses(layer), link.for) : -1;
      return index < 0 ? null : { class: index };
    }
    return link.like !== undefined && this.#known({ layer, unit: link.like }) ? { like: link.like } : null;
  }

  /** The names of the classes that the network of a layer of units tells apart. */
  unitClasses(layer: string): string[] {
    const atlasMap = this.atlas.layers.find(({ path }) => path === layer);
    return atlasMap ? classesOf(this.atlas, atlasMap) : (this.atlas.networks[0]?.classes ?? []);
  }

  /** Go to a unit or to a list of units: a class stays chosen in another layer, as far as its network has it. */
  visit(layer: string, unit: number | null, circuit = false): void {
    let narrowed = this.neurons?.narrowed ?? null;
    const before = this.neurons?.layer ?? layer;
    if (narrowed && layer !== before) {
      const index = 'class' in narrowed ? this.unitClasses(layer).indexOf(this.unitClasses(before)[narrowed.class] as string) : -1;
      narrowed = index < 0 ? null : { class: index };
    }
    this.neurons = { layer, unit, circuit, narrowed };
  }

  /** The chosen classes by the numbers of a layer's network; one that it does not have is left out. */
  classesIn(atlasMap: AtlasMap): number[] {
    const [before, after] = [classesOf(this.atlas, this.atlasMap), classesOf(this.atlas, atlasMap)];
    return this.classes.map((index) => after.indexOf(before[index] as string)).filter((index) => index >= 0);
  }

  /** Go to another layer: a class that its network does not have and cells of the former one are left behind. */
  choose(atlasMap: AtlasMap, cells: readonly Place[] = []): void {
    this.classes = this.classesIn(atlasMap);
    this.atlasMap = atlasMap;
    if (this.secondMap === atlasMap) this.secondMap = null;
    this.level = this.allowed(this.level);
    this.cells = cells;
    if (this.lit && !this.#seen(this.lit)) this.lit = null;
  }

  /** A level that the layer has, or null. */
  allowed(level: number | null): number | null {
    return level !== null && gridSizes(this.atlasMap).includes(level) ? level : null;
  }

  link(view: View): string {
    return formatLink({ ...this.#lasting(), view, patches: this.patches, strength: this.strength, at: this.at, density: this.density });
  }

  /** What makes a step of its own in the browser's history: all but the view and what is set by sliders. */
  get step(): string {
    return formatLink({ ...this.#lasting(), strength: DEFAULTS.strength });
  }

  #lasting(): Link {
    const names = classesOf(this.atlas, this.atlasMap);
    return {
      layer: this.atlasMap.path,
      classes: this.classes.map((index) => names[index] as string),
      side: this.side,
      cells: [...this.cells],
      how: this.how,
      labels: this.labels,
      low: this.low,
      ...(this.level === null ? {} : { level: this.level }),
      ...(this.secondMap === null ? {} : { with: this.secondMap.path }),
      ...(this.lit === null ? {} : { lit: this.lit }),
      ...this.#view(),
    };
  }

  #view(): Link {
    if (!this.neurons) return {};
    const { layer, unit, circuit, narrowed } = this.neurons;
    const list: Link = { order: this.order };
    if (narrowed && 'class' in narrowed) list.for = this.#classText(layer, narrowed.class);
    else if (narrowed) list.like = narrowed.like;
    if (unit === null) return { neurons: layer, ...list };
    return { unit: { layer, unit }, ...list, ...(circuit ? { show: 'circuit' } : {}) };
  }

  /** A class by its first synonym, or by its whole name where another one has the same. */
  #classText(layer: string, index: number): string {
    const names = this.unitClasses(layer);
    const short = className(names, index);
    return classNumber(names, short) === index ? short : (names[index] as string);
  }
}

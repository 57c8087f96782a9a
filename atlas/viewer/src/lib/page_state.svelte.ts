/** What is on the screen besides the view: the part of the page's state that a link holds. */

import { classesOf, gridSizes, openingMap, type Atlas, type AtlasMap, type UnitLayer } from './atlas';
import { growing, grown } from './growing.svelte';
import { DEFAULTS, formatLink, type Arrangement, type Link, type LowScoreStyle, type UnitOrder, type CellRef, type HeatSide, type Unit, type View } from './link';
import { classNumber, className } from './words';

/** By the effects on a class, by its number in the layer's network; or the units that answer like one. */
export type UnitFilter = { class: number } | { like: number };

/** What the view of neurons shows: a layer's units, or one of them, or what builds it. */
export interface NeuronView {
  layer: string;
  unit: number | null;
  circuit: boolean;
  /** What the list is narrowed to, in place of an order of all. */
  filter?: UnitFilter | null;
}

export class PageState {
  /** It grows while the run is at work. */
  atlas: Atlas = $state.raw() as Atlas;
  atlasMap: AtlasMap = $state.raw() as AtlasMap;
  /** The second map, or null. */
  secondMap = $state.raw<AtlasMap | null>(null);
  level = $state<number | null>(null);
  patches = $state<number>(DEFAULTS.patches);
  #classes = $state.raw<readonly number[]>([]);
  side = $state<HeatSide>(DEFAULTS.side);
  darkening = $state<number>(DEFAULTS.darkening);
  cells = $state.raw<readonly CellRef[]>([]);
  arrangement = $state<Arrangement>(DEFAULTS.arrangement);
  swipeAt = $state<number>(DEFAULTS.swipeAt);
  density = $state<number>(DEFAULTS.density);
  labels = $state<boolean>(DEFAULTS.labels);
  low = $state<LowScoreStyle>(DEFAULTS.low);
  /** The unit that lights up on its layer's map, in place of classes. */
  litUnit = $state.raw<Unit | null>(null);
  /** The view of neurons over the map; null where the map is seen. */
  neurons = $state.raw<NeuronView | null>(null);
  /** The order in which it lists units. */
  order = $state<UnitOrder>(DEFAULTS.order);

  /** What the link named and this atlas does not have, in words. */
  missingNames: string[] = [];

  constructor(atlas: Atlas, link: Link) {
    this.atlas = growing(atlas);
    this.atlasMap = openingMap(this.atlas);
    this.apply(link);
  }

  /** Numbers of one class or two, of the first map's network; they take the place of a unit. */
  get classes(): readonly number[] {
    return this.#classes;
  }

  set classes(classes: readonly number[]) {
    this.#classes = classes;
    if (classes.length) this.litUnit = null;
  }

  /** Show what has come since, and all else as it is. */
  grow(next: Atlas): void {
    this.atlas = grown(this.atlas, next);
  }

  /** Show what a link says; what it leaves out is as it is by default. */
  apply(link: Link): void {
    const mapNamed = (path: string | undefined) => this.atlas.layers.find((atlasMap) => atlasMap.path === path);
    this.atlasMap = mapNamed(link.mapName) ?? this.atlasMap;
    this.secondMap = mapNamed(link.secondMapName === this.atlasMap.path ? undefined : link.secondMapName) ?? null;
    this.level = this.levelOrNull(link.level ?? null);
    const names = classesOf(this.atlas, this.atlasMap);
    this.classes = this.atlas.attributions ? (link.classes ?? []).map((name) => names.indexOf(name)).filter((index) => index >= 0) : [];
    this.cells = (link.cells ?? []).filter(({ grid }) => this.levelOrNull(grid) !== null);
    this.patches = link.patches ?? DEFAULTS.patches;
    this.side = link.side ?? DEFAULTS.side;
    this.darkening = link.darkening ?? DEFAULTS.darkening;
    this.arrangement = link.arrangement ?? DEFAULTS.arrangement;
    this.swipeAt = link.swipeAt ?? DEFAULTS.swipeAt;
    this.density = link.density ?? DEFAULTS.density;
    this.labels = link.labels ?? DEFAULTS.labels;
    this.low = link.low ?? DEFAULTS.low;
    this.litUnit = link.lit && this.#hasUnit(link.lit) && this.#isShown(link.lit) && !this.classes.length ? link.lit : null;
    this.neurons = this.#neuronViewOf(link);
    this.order = link.order ?? DEFAULTS.order;
    const missingName = (name: string, value: string | number | undefined, exists: boolean) =>
      value === undefined || exists ? [] : [`${name} ${value}`];
    this.missingNames = [
      ...missingName('layer', link.mapName, mapNamed(link.mapName) !== undefined),
      ...missingName('layer', link.secondMapName, mapNamed(link.secondMapName) !== undefined),
      ...missingName('level', link.level, this.level !== null),
      ...(link.classes ?? []).flatMap((name) => missingName('class', name, names.includes(name))),
      ...[link.unit, link.lit].flatMap((unit) => missingName('unit', unit && `${unit.unit} of ${unit.layer}`, this.#hasUnit(unit))),
      ...missingName('class', this.neurons ? link.for : undefined, Boolean(this.neurons?.filter)),
      ...missingName('units of', link.unit ? undefined : link.neurons, this.units(link.neurons) !== undefined),
    ];
  }

  /** A layer's entry among the layers with units. */
  units(layer: string | undefined): UnitLayer | undefined {
    return this.atlas.neurons?.layers.find((entry) => entry.layer === layer);
  }

  /** Light up a unit on its layer's map, or nothing. */
  lightUp(unit: Unit | null): void {
    if (unit) {
      const atlasMap = this.atlas.layers.find((candidate) => candidate.path === unit.layer);
      if (atlasMap && !this.#isShown(unit)) this.switchTo(atlasMap);
      this.classes = [];
      this.neurons = null;
    }
    this.litUnit = unit;
  }

  #hasUnit(unit: Unit | undefined): boolean {
    return unit !== undefined && unit.unit < (this.units(unit.layer)?.units ?? 0);
  }

  #isShown({ layer }: Unit): boolean {
    return this.atlasMap.path === layer || this.secondMap?.path === layer;
  }

  #neuronViewOf(link: Link): NeuronView | null {
    const { neurons, unit, show } = link;
    if (unit && this.#hasUnit(unit)) return { ...unit, circuit: show === 'circuit', filter: this.#filterOf(unit.layer, link) };
    const layer = this.units(unit?.layer) ?? this.units(neurons);
    return layer ? { layer: layer.layer, unit: null, circuit: false, filter: this.#filterOf(layer.layer, link) } : null;
  }

  #filterOf(layer: string, link: Link): UnitFilter | null {
    if (link.for !== undefined) {
      const index = this.atlas.attributions ? classNumber(this.unitClasses(layer), link.for) : -1;
      return index < 0 ? null : { class: index };
    }
    return link.like !== undefined && this.#hasUnit({ layer, unit: link.like }) ? { like: link.like } : null;
  }

  /** The class names of a unit layer's network. */
  unitClasses(layer: string): string[] {
    const atlasMap = this.atlas.layers.find(({ path }) => path === layer);
    return atlasMap ? classesOf(this.atlas, atlasMap) : (this.atlas.networks[0]?.classes ?? []);
  }

  /** Go to a unit or to a list of units: a class stays chosen in another layer, as far as its network has it. */
  openUnits(layer: string, unit: number | null, circuit = false): void {
    let filter = this.neurons?.filter ?? null;
    const before = this.neurons?.layer ?? layer;
    if (filter && layer !== before) {
      const index = 'class' in filter ? this.unitClasses(layer).indexOf(this.unitClasses(before)[filter.class] as string) : -1;
      filter = index < 0 ? null : { class: index };
    }
    this.neurons = { layer, unit, circuit, filter };
  }

  /** The chosen classes by the numbers of a layer's network; one that it does not have is left out. */
  classesIn(atlasMap: AtlasMap): number[] {
    const [before, after] = [classesOf(this.atlas, this.atlasMap), classesOf(this.atlas, atlasMap)];
    return this.classes.map((index) => after.indexOf(before[index] as string)).filter((index) => index >= 0);
  }

  /** Go to another layer: a class that its network does not have and cells of the former one are left behind. */
  switchTo(atlasMap: AtlasMap, cells: readonly CellRef[] = []): void {
    this.classes = this.classesIn(atlasMap);
    this.atlasMap = atlasMap;
    if (this.secondMap === atlasMap) this.secondMap = null;
    this.level = this.levelOrNull(this.level);
    this.cells = cells;
    if (this.litUnit && !this.#isShown(this.litUnit)) this.litUnit = null;
  }

  /** A level that the layer has, or null. */
  levelOrNull(level: number | null): number | null {
    return level !== null && gridSizes(this.atlasMap).includes(level) ? level : null;
  }

  link(view: View): string {
    return formatLink({ ...this.#lastingState(), view, patches: this.patches, darkening: this.darkening, swipeAt: this.swipeAt, density: this.density });
  }

  /** What makes a step of its own in the browser's history: all but the view and what is set by sliders. */
  get historyKey(): string {
    return formatLink({ ...this.#lastingState(), darkening: DEFAULTS.darkening });
  }

  #lastingState(): Link {
    const names = classesOf(this.atlas, this.atlasMap);
    return {
      mapName: this.atlasMap.path,
      classes: this.classes.map((index) => names[index] as string),
      side: this.side,
      cells: [...this.cells],
      arrangement: this.arrangement,
      labels: this.labels,
      low: this.low,
      ...(this.level === null ? {} : { level: this.level }),
      ...(this.secondMap === null ? {} : { secondMapName: this.secondMap.path }),
      ...(this.litUnit === null ? {} : { lit: this.litUnit }),
      ...this.#neuronLink(),
    };
  }

  #neuronLink(): Link {
    if (!this.neurons) return {};
    const { layer, unit, circuit, filter } = this.neurons;
    const list: Link = { order: this.order };
    if (filter && 'class' in filter) list.for = this.#classText(layer, filter.class);
    else if (filter) list.like = filter.like;
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

/** The zoomable view of a map: a thin wrapper of OpenSeadragon in the atlas's terms. */

import OpenSeadragon from 'openseadragon';

import { fittingSide, viewOf, type Frame } from '../lib/frame';
import { SMALLEST_SHARE, type Point } from '../lib/levels';
import type { View } from '../lib/link';
import type { TilePyramid } from '../lib/pyramid';

const FADE = 150; // milliseconds
const PATIENCE = 4000; // milliseconds; after that a new source is shown with the tiles it has
const LARGEST_ICON = 4; // times its own size, at the deepest zoom
const SMALLEST_MAP = 0.6; // of the fitting side
const ZOOM_STEP = 1.5;

/** A source and how much of it is seen, 0 to 1. */
export interface VisiblePyramid {
  pyramid: TilePyramid;
  opacity: number;
}

interface MapEvents {
  /** The map has moved or the window has changed; called in every frame of a movement. */
  frame(frame: Frame): void;
  /** The map has come to rest. */
  rest(view: View): void;
  /** A click or a tap, in pixels of the map's element. */
  tap(pixel: Point, event: { touch: boolean; more: boolean }): void;
  /** A tile did not arrive. */
  failed(): void;
}

export class MapViewer {
  readonly #viewer: OpenSeadragon.Viewer;
  readonly #events: MapEvents;
  readonly #reducedMotion: boolean;
  readonly #shown = new Map<string, OpenSeadragon.TiledImage>();
  readonly #pending = new Map<string, Promise<void>>();
  #requested: readonly VisiblePyramid[] = [];
  #widest = Infinity; // pixels of the finest level's whole map; not known before a source is shown
  #destroyed = false;
  #size: OpenSeadragon.Point;
  #view: View = { x: 0.5, y: 0.5, zoom: 1 };

  constructor(element: HTMLElement, events: MapEvents) {
    this.#events = events;
    this.#reducedMotion = matchMedia('(prefers-reduced-motion: reduce)').matches;
    const gestures = { clickToZoom: false, dblClickToZoom: false, flickEnabled: !this.#reducedMotion, flickMomentum: 0.2 };
    keepStylesOut();
    this.#viewer = new OpenSeadragon.Viewer({
      element,
      // The canvas drawer needs no graphics card, and fades transparent tiles correctly.
      drawer: 'canvas',
      showNavigationControl: false,
      keyboardNavEnabled: false,
      gestureSettingsMouse: { ...gestures, scrollToZoom: true },
      gestureSettingsTouch: { ...gestures, pinchToZoom: true },
      gestureSettingsPen: gestures,
      animationTime: this.#reducedMotion ? 0 : 0.5,
      blendTime: this.#reducedMotion ? 0 : FADE / 1000,
      // OpenSeadragon counts device pixels; icons are chosen by the size at which they are seen.
      minPixelRatio: SMALLEST_SHARE * devicePixelRatio,
      smoothTileEdgesMinZoom: Infinity,
      maxTilesPerFrame: 4,
      imageLoaderLimit: 8,
      tileRetryMax: 3,
      tileRetryDelay: 2000,
      visibilityRatio: 0.3,
      zoomPerScroll: 1.25,
      tabIndex: -1,
      clickTimeThreshold: 1000, // while the first tiles come, a click may take long to be seen
      // A reader may have moved before the first source is there.
      preserveViewport: true,
    });
    this.#size = this.#viewer.viewport.getContainerSize();
    this.#listen();
    this.#limitZoom();
    this.goTo(this.#view, true);
  }

  get frame(): Frame {
    const viewport = this.#viewer.viewport;
    const corner = viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
    const size = viewport.getContainerSize();
    const side = viewport.deltaPixelsFromPoints(new OpenSeadragon.Point(1, 0), true).x;
    return { left: corner.x, top: corner.y, side, width: size.x, height: size.y };
  }

  /**
   * Show sources, the later ones over the earlier, at the same view and in place of what is shown. New ones fade in once
   * their tiles are there, the old ones then leave; other opacities of the same sources are seen at once.
   */
  async show(pyramids: readonly VisiblePyramid[], widest: number): Promise<void> {
    this.#requested = pyramids;
    this.#widest = widest;
    this.#limitZoom();
    for (const { pyramid: source, opacity } of pyramids) this.#shown.get(source.id)?.setOpacity(opacity);
    const first = this.#shown.size === 0;
    await Promise.all(pyramids.map(({ pyramid: source }, place) => this.#ensureShown(source, place === 0 && pyramids.length > 1, first)));
    if (this.#requested !== pyramids) return;
    const keep = new Set(pyramids.map(({ pyramid: source }) => source.id));
    const leaving = [...this.#shown].filter(([id]) => !keep.has(id));
    for (const [id] of leaving) this.#shown.delete(id);
    await Promise.all(leaving.map(([, item]) => this.#fade(item, item.getOpacity(), 0)));
    for (const [, item] of leaving) this.#viewer.world.removeItem(item);
  }

  /** Show a source, unless it is shown or loading; one that was removed while loading is loaded again. */
  async #ensureShown(pyramid: TilePyramid, below: boolean, first: boolean): Promise<void> {
    while (!this.#shown.has(pyramid.id) && this.#requested.some((entry) => entry.pyramid.id === pyramid.id)) {
      let pending = this.#pending.get(pyramid.id);
      if (!pending) {
        pending = this.#load(pyramid, below, first).finally(() => this.#pending.delete(pyramid.id));
        this.#pending.set(pyramid.id, pending);
      }
      await pending;
    }
  }

  async #load(pyramid: TilePyramid, below: boolean, first: boolean): Promise<void> {
    const opacity = () => this.#requested.find((entry) => entry.pyramid.id === pyramid.id)?.opacity;
    const item = await this.#add(pyramid, first ? (opacity() ?? 0) : 0);
    if (opacity() === undefined) {
      this.#viewer.world.removeItem(item); // not wanted any more
      return;
    }
    this.#shown.set(pyramid.id, item);
    if (below) this.#viewer.world.setItemIndex(item, 0);
    if (first) return;
    await tilesLoaded(item);
    await this.#fade(item, 0, opacity() ?? 0);
    const goal = opacity();
    if (goal !== undefined) item.setOpacity(goal);
  }

  /** Go to a view. */
  goTo(view: View, atOnce = false): void {
    this.#view = view;
    const viewport = this.#viewer.viewport;
    const size = viewport.getContainerSize();
    const zoom = (view.zoom * fittingSide(size.x, size.y)) / size.x;
    const immediately = atOnce || this.#reducedMotion;
    viewport.zoomTo(zoom, undefined, immediately);
    viewport.panTo(new OpenSeadragon.Point(view.x, view.y), immediately);
    viewport.applyConstraints(immediately);
  }

  /** The view that the map is on its way to, or has. */
  get targetView(): View {
    const viewport = this.#viewer.viewport;
    const { x, y } = viewport.getCenter(false);
    const size = viewport.getContainerSize();
    if (!size.equals(this.#size)) return this.#view; // the handler of its resizing is still to come
    return { x, y, zoom: (viewport.getZoom(false) * size.x) / fittingSide(size.x, size.y) };
  }

  home(): void {
    this.goTo({ x: 0.5, y: 0.5, zoom: 1 });
  }

  /** Move the window over the map by shares of its shorter side. */
  pan(x: number, y: number): void {
    const viewport = this.#viewer.viewport;
    const size = viewport.getContainerSize();
    const step = Math.min(size.x, size.y);
    viewport.panBy(viewport.deltaPointsFromPixels(new OpenSeadragon.Point(x * step, y * step)), this.#reducedMotion);
    viewport.applyConstraints(this.#reducedMotion);
    this.#view = this.targetView;
  }

  zoomIn(): void {
    this.#zoomBy(ZOOM_STEP);
  }

  zoomOut(): void {
    this.#zoomBy(1 / ZOOM_STEP);
  }

  /** Bring a point of the map into the middle, at once. */
  centre(point: Point): void {
    this.#viewer.viewport.panTo(new OpenSeadragon.Point(point.x, point.y), true);
  }

  /** What is drawn of the map's tiles, as a canvas that others may copy from. */
  get canvas(): HTMLCanvasElement {
    return this.#viewer.drawer.canvas as HTMLCanvasElement;
  }

  destroy(): void {
    this.#destroyed = true;
    this.#viewer.destroy();
  }

  #zoomBy(factor: number): void {
    this.#viewer.viewport.zoomBy(factor, undefined, this.#reducedMotion);
    this.#viewer.viewport.applyConstraints(this.#reducedMotion);
    this.#view = this.targetView;
  }

  #listen(): void {
    const viewer = this.#viewer;
    const moved = () => this.#events.frame(this.frame);
    viewer.addHandler('viewport-change', moved);
    // OpenSeadragon sets a zoom of its own right after its resize event.
    viewer.addHandler('resize', () => queueMicrotask(() => this.#resized()));
    viewer.addHandler('animation-finish', () => {
      // In a window of another size the viewport has a view of its own, until the handler of its resizing comes.
      if (!viewer.viewport.getContainerSize().equals(this.#size)) return;
      this.#view = viewOf(this.frame);
      this.#events.rest(this.#view);
    });
    viewer.addHandler('canvas-click', (event) => {
      const { pointerType, shiftKey } = event.originalEvent as PointerEvent;
      if (event.quick) this.#events.tap(event.position, { touch: pointerType !== 'mouse', more: shiftKey });
    });
    viewer.addHandler('tile-drawing', (event) => {
      event.context.imageSmoothingQuality = 'medium';
    });
    viewer.addHandler('tile-load-failed', () => this.#events.failed());
  }

  #resized(): void {
    if (this.#destroyed) return;
    this.#size = this.#viewer.viewport.getContainerSize();
    this.#limitZoom();
    this.goTo(this.#view, true);
    this.#events.frame(this.frame);
    this.#events.rest(this.#view);
  }

  #limitZoom(): void {
    const viewport = this.#viewer.viewport;
    const size = viewport.getContainerSize();
    const deepest = LARGEST_ICON * this.#widest;
    // The declared types know these two only as options of the viewer.
    Object.assign(viewport, {
      minZoomLevel: (SMALLEST_MAP * fittingSide(size.x, size.y)) / size.x,
      maxZoomLevel: Math.max(deepest, fittingSide(size.x, size.y)) / size.x,
    });
  }

  #add(pyramid: TilePyramid, opacity: number): Promise<OpenSeadragon.TiledImage> {
    return new Promise((resolve, reject) => {
      this.#viewer.addTiledImage({
        tileSource: tileSource(pyramid),
        width: 1,
        opacity,
        preload: true,
        success: (event) => resolve((event as unknown as { item: OpenSeadragon.TiledImage }).item),
        error: (event) => reject(new Error(String((event as unknown as { message: string }).message))),
      });
    });
  }

  #fade(item: OpenSeadragon.TiledImage, from: number, to: number): Promise<void> {
    if (this.#reducedMotion) {
      item.setOpacity(to);
      return Promise.resolve();
    }
    const start = performance.now();
    return new Promise((resolve) => {
      const step = (time: number) => {
        const part = Math.min(1, Math.max(0, time - start) / FADE);
        item.setOpacity(from + (to - from) * part);
        if (part < 1) requestAnimationFrame(step);
        else resolve();
      };
      requestAnimationFrame(step);
    });
  }
}

/**
 * OpenSeadragon adds a style element unless it finds its own, and the page's policy forbids that. An element of the
 * same name and no namespace is found, and styles nothing; the rule itself is in app.css.
 */
function keepStylesOut(): void {
  const stand = document.createElementNS(null, 'style');
  stand.setAttribute('data-openseadragon-mobile-css', '');
  document.head.append(stand);
}

function tilesLoaded(item: OpenSeadragon.TiledImage): Promise<void> {
  if (item.getFullyLoaded()) return Promise.resolve();
  return new Promise((resolve) => {
    setTimeout(resolve, PATIENCE);
    item.addHandler('fully-loaded-change', (event) => {
      if (event.fullyLoaded) resolve();
    });
  });
}

function tileSource(pyramid: TilePyramid): OpenSeadragon.TileSource {
  const tiles = new OpenSeadragon.TileSource({
    width: pyramid.side,
    height: pyramid.side,
    tileSize: pyramid.tileSize,
    tileOverlap: 0,
    minLevel: 0,
    maxLevel: pyramid.maxLevel,
  });
  tiles.getTileUrl = (level, x, y) => pyramid.tile(level, x, y);
  // Tiles do not overlap and a level that is complete hides the ones below it, so nothing has to be cleared first.
  (tiles as unknown as { hasTransparency: () => boolean }).hasTransparency = () => false;
  // From the coarsest grid downwards the icons are the same, only smaller: there, the screen's own pixels count, so
  // that a small screen with many of them shows the sharper level.
  // (The declared types take this ratio for a number; it is a point.)
  const plain = tiles as unknown as { getPixelRatio(level: number): OpenSeadragon.Point };
  const ratio = plain.getPixelRatio.bind(tiles);
  plain.getPixelRatio = (level) => ratio(level).times(level <= pyramid.coarsestLevel ? devicePixelRatio : 1);
  return tiles;
}

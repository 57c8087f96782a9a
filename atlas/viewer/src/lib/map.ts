/** The zoomable map: a thin layer over OpenSeadragon that knows the atlas's words. */

import OpenSeadragon from 'openseadragon';

import { fittingSide, viewOf, type Frame } from './frame';
import { SMALLEST_SHARE, type Point } from './levels';
import type { View } from './link';
import type { Source } from './source';

const FADE = 150; // milliseconds
const PATIENCE = 4000; // milliseconds; after that a new source is shown with the tiles it has
const LARGEST_ICON = 4; // times its own size, at the deepest zoom
const SMALLEST_MAP = 0.6; // of the fitting side
const ZOOM_STEP = 1.5;

export interface MapEvents {
  /** The map has moved or the window has changed; called in every frame of a movement. */
  frame(frame: Frame): void;
  /** The map has come to rest. */
  rest(view: View): void;
  /** A tap with a finger or a pen, in pixels of the window. */
  tap(pixel: Point): void;
  /** A tile did not arrive. */
  failed(): void;
}

export class AtlasMap {
  readonly #viewer: OpenSeadragon.Viewer;
  readonly #events: MapEvents;
  readonly #still: boolean;
  #wanted = '';
  #widest = Infinity; // pixels of the finest level's whole map; not known before a source is shown
  #view: View = { x: 0.5, y: 0.5, zoom: 1 };

  constructor(element: HTMLElement, events: MapEvents) {
    this.#events = events;
    this.#still = matchMedia('(prefers-reduced-motion: reduce)').matches;
    const gestures = { clickToZoom: false, dblClickToZoom: true, flickEnabled: !this.#still, flickMomentum: 0.2 };
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
      animationTime: this.#still ? 0 : 0.5,
      blendTime: this.#still ? 0 : FADE / 1000,
      // OpenSeadragon counts device pixels; icons are chosen by the size at which they are seen.
      minPixelRatio: SMALLEST_SHARE * devicePixelRatio,
      smoothTileEdgesMinZoom: Infinity,
      maxTilesPerFrame: 4,
      imageLoaderLimit: 8,
      visibilityRatio: 0.3,
      zoomPerScroll: 1.25,
      tabIndex: -1,
      // A reader may have moved before the first source is there.
      preserveViewport: true,
    });
    this.#listen();
    this.#limitZoom();
    this.look(this.#view, true);
  }

  get frame(): Frame {
    const viewport = this.#viewer.viewport;
    const corner = viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
    const size = viewport.getContainerSize();
    const side = viewport.deltaPixelsFromPoints(new OpenSeadragon.Point(1, 0), true).x;
    return { left: corner.x, top: corner.y, side, width: size.x, height: size.y };
  }

  /** Show a source in place of the present one, at the same view; it fades in once its tiles are there. */
  async show(source: Source, widest: number): Promise<void> {
    if (source.id === this.#wanted) return;
    this.#wanted = source.id;
    this.#widest = widest;
    const world = this.#viewer.world;
    const first = world.getItemCount() === 0;
    const item = await this.#add(source, first ? 1 : 0);
    if (first) {
      this.#limitZoom();
      return;
    }
    await loaded(item);
    if (source.id !== this.#wanted) {
      world.removeItem(item);
      return;
    }
    this.#limitZoom();
    const former = all(world).filter((other) => other !== item);
    await this.#fade(item, 0, 1);
    await Promise.all(former.map((other) => this.#fade(other, other.getOpacity(), 0)));
    for (const other of former) if (all(world).includes(other)) world.removeItem(other);
  }

  /** Go to a view. */
  look(view: View, atOnce = false): void {
    this.#view = view;
    const viewport = this.#viewer.viewport;
    const size = viewport.getContainerSize();
    const zoom = (view.zoom * fittingSide(size.x, size.y)) / size.x;
    const immediately = atOnce || this.#still;
    viewport.zoomTo(zoom, undefined, immediately);
    viewport.panTo(new OpenSeadragon.Point(view.x, view.y), immediately);
    viewport.applyConstraints(immediately);
  }

  home(): void {
    this.look({ x: 0.5, y: 0.5, zoom: 1 });
  }

  /** Move the window over the map by shares of its shorter side. */
  pan(x: number, y: number): void {
    const viewport = this.#viewer.viewport;
    const size = viewport.getContainerSize();
    const step = Math.min(size.x, size.y);
    viewport.panBy(viewport.deltaPointsFromPixels(new OpenSeadragon.Point(x * step, y * step)), this.#still);
    viewport.applyConstraints(this.#still);
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

  destroy(): void {
    this.#viewer.destroy();
  }

  #zoomBy(factor: number): void {
    this.#viewer.viewport.zoomBy(factor, undefined, this.#still);
    this.#viewer.viewport.applyConstraints(this.#still);
  }

  #listen(): void {
    const viewer = this.#viewer;
    const moved = () => this.#events.frame(this.frame);
    viewer.addHandler('viewport-change', moved);
    viewer.addHandler('resize', () => {
      this.#limitZoom();
      this.look(this.#view, true);
      moved();
    });
    viewer.addHandler('animation-finish', () => {
      this.#view = viewOf(this.frame);
      this.#events.rest(this.#view);
    });
    viewer.addHandler('canvas-click', (event) => {
      const type = (event.originalEvent as PointerEvent).pointerType;
      if (event.quick && type !== 'mouse') this.#events.tap(event.position);
    });
    viewer.addHandler('tile-drawing', (event) => {
      event.context.imageSmoothingQuality = 'medium';
    });
    viewer.addHandler('tile-load-failed', () => this.#events.failed());
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

  #add(source: Source, opacity: number): Promise<OpenSeadragon.TiledImage> {
    return new Promise((resolve, reject) => {
      this.#viewer.addTiledImage({
        tileSource: tileSource(source),
        width: 1,
        opacity,
        preload: true,
        success: (event) => resolve((event as unknown as { item: OpenSeadragon.TiledImage }).item),
        error: (event) => reject(new Error(String((event as unknown as { message: string }).message))),
      });
    });
  }

  #fade(item: OpenSeadragon.TiledImage, from: number, to: number): Promise<void> {
    if (this.#still) {
      item.setOpacity(to);
      return Promise.resolve();
    }
    const start = performance.now();
    return new Promise((resolve) => {
      const step = (now: number) => {
        const part = Math.min(1, Math.max(0, now - start) / FADE);
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

function all(world: OpenSeadragon.World): OpenSeadragon.TiledImage[] {
  return Array.from({ length: world.getItemCount() }, (_, i) => world.getItemAt(i));
}

function loaded(item: OpenSeadragon.TiledImage): Promise<void> {
  if (item.getFullyLoaded()) return Promise.resolve();
  return new Promise((resolve) => {
    setTimeout(resolve, PATIENCE);
    item.addHandler('fully-loaded-change', (event) => {
      if (event.fullyLoaded) resolve();
    });
  });
}

function tileSource(source: Source): OpenSeadragon.TileSource {
  const tiles = new OpenSeadragon.TileSource({
    width: source.side,
    height: source.side,
    tileSize: source.tileSize,
    tileOverlap: 0,
    minLevel: 0,
    maxLevel: source.maxLevel,
  });
  tiles.getTileUrl = (level, x, y) => source.tile(level, x, y);
  // Tiles do not overlap and a level that is complete hides the ones below it, so nothing has to be cleared first.
  (tiles as unknown as { hasTransparency: () => boolean }).hasTransparency = () => false;
  // From the coarsest grid downwards the icons are the same, only smaller: there, the screen's own pixels count, so
  // that a small screen with many of them shows the sharper level.
  // (The declared types take this ratio for a number; it is a point.)
  const plain = tiles as unknown as { getPixelRatio(level: number): OpenSeadragon.Point };
  const ratio = plain.getPixelRatio.bind(tiles);
  plain.getPixelRatio = (level) => ratio(level).times(level <= source.coarsestLevel ? devicePixelRatio : 1);
  return tiles;
}

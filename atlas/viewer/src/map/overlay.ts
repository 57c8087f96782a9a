/** What changes over the tiles: heat of classes, sizes by density, marks of low scores, names. */

import type { DrawMarks } from '../image/dots';
import type { Cells } from '../lib/cells';
import { cellBox, type Frame } from '../lib/frame';
import type { LowScoreStyle } from '../lib/link';
import type { Colours } from '../lib/theme';
import { tileNow } from '../lib/tiles';
import { blockOf, regionLabels, placeLabels, type Label, type PlacedLabel } from './labels';

/** A picture of each cell: the tile it is on, and where (left, top and side in the tile's pixels). */
export interface CellTile {
  address: string;
  left: number;
  top: number;
  side: number;
  opacity: number;
}

export interface Scene {
  cells: Cells;
  /** The heat's pixels (RGBA, grid × grid); null without a class. */
  heat: Uint8ClampedArray<ArrayBuffer> | null;
  /** How much smaller cells of few activations are drawn, 0 to 1. */
  density: number;
  low: LowScoreStyle;
  /** What else is drawn on the map, below the names. */
  marks: DrawMarks | null;
  /** Names of the classes; null where no names are wanted. */
  names: ((index: number) => string) | null;
  /** Classes that are no names: those that the whole map is of. */
  unnamed: ReadonlySet<number>;
  /** The pictures of a cell, for drawing them smaller. */
  tilesOf: (row: number, col: number) => CellTile[];
  /** The window's edges that the page's own panels cover: no name is put there. */
  panels: readonly { left: number; top: number; width: number; height: number }[];
}

/** Names are so large, in CSS pixels, where they stand for a large region; the smallest have LEAST. */
const LARGEST_NAME = 17;
const SMALLEST_NAME = 12;
const FAMILY = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";
/** Cells below so many CSS pixels are all drawn alike: there would be nothing to see of their sizes. */
const SMALLEST_SIZED = 12;
/** The smallest picture of a cell, as a share of its side. */
const SMALLEST_CELL = 0.25;
/** Most cells have full size: those above this share of the counts. */
const FULL_SIZE = 0.9;

export class Overlay {
  readonly #canvas: HTMLCanvasElement;
  readonly #context: CanvasRenderingContext2D;
  readonly #redraw: () => void;
  #heat: { pixels: Uint8ClampedArray; picture: HTMLCanvasElement; inside: HTMLCanvasElement } | null = null;
  #labels: { cells: Cells; block: number; labels: Label[]; widths: Map<Label, number> } | null = null;
  #sizes: { cells: Cells; density: number; sizes: Float32Array } | null = null;

  /** `redraw` is called when something that was waited for has come. */
  constructor(canvas: HTMLCanvasElement, redraw: () => void) {
    this.#canvas = canvas;
    this.#context = canvas.getContext('2d') as CanvasRenderingContext2D;
    this.#redraw = redraw;
  }

  /** Draw a scene; returns the names that found room. */
  draw(frame: Frame, scene: Scene | null, colours: Colours): PlacedLabel[] {
    const ratio = devicePixelRatio;
    const [width, height] = [Math.round(frame.width * ratio), Math.round(frame.height * ratio)];
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      this.#canvas.width = width;
      this.#canvas.height = height;
    }
    const context = this.#context;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, frame.width, frame.height);
    if (!scene) return [];
    if (scene.density > 0) this.#drawSizes(frame, scene, colours);
    if (scene.heat) this.#drawHeat(frame, scene.cells, scene.heat);
    if (scene.low !== 'plain') this.#drawLow(frame, scene, colours);
    scene.marks?.(context);
    return scene.names ? this.#drawNames(frame, scene, scene.names, colours) : [];
  }

  #drawHeat(frame: Frame, cells: Cells, pixels: Uint8ClampedArray<ArrayBuffer>): void {
    if (this.#heat?.pixels !== pixels) {
      const inside = new Uint8ClampedArray(pixels.length);
      for (let i = 0; i < cells.length; i++) {
        if (cells.drawn[i]) inside[((cells.row[i] as number) * cells.grid + (cells.col[i] as number)) * 4 + 3] = 255;
      }
      this.#heat = { pixels, picture: canvasOf(pixels, cells.grid), inside: canvasOf(inside, cells.grid) };
    }
    const context = this.#context;
    const draw = (picture: HTMLCanvasElement, shift: number) =>
      context.drawImage(picture, frame.left + shift, frame.top + shift, frame.side, frame.side);
    context.imageSmoothingEnabled = false;
    // Tiles reach up to a pixel beyond their cells: the heat is first drawn a pixel to both sides, then again inside.
    draw(this.#heat.picture, -1);
    draw(this.#heat.picture, 1);
    context.globalCompositeOperation = 'destination-out';
    draw(this.#heat.inside, 0);
    context.globalCompositeOperation = 'source-over';
    draw(this.#heat.picture, 0);
    context.imageSmoothingEnabled = true;
  }

  /** Cells of few activations smaller than those of many, on clean ground. */
  #drawSizes(frame: Frame, scene: Scene, colours: Colours): void {
    const { cells, density } = scene;
    if (this.#sizes?.cells !== cells || this.#sizes.density !== density) {
      this.#sizes = { cells, density, sizes: sizesOf(cells, density) };
    }
    const { sizes } = this.#sizes;
    if (frame.side / cells.grid < SMALLEST_SIZED) return;
    const context = this.#context;
    context.fillStyle = colours.ground;
    forEachSeen(frame, cells, (i) => {
      const size = sizes[i] as number;
      if (!cells.drawn[i] || size >= 1) return;
      const [row, col] = [cells.row[i] as number, cells.col[i] as number];
      const cellTiles = scene.tilesOf(row, col).map((cellTile) => ({ cellTile, tile: tileNow(cellTile.address, this.#redraw) }));
      if (cellTiles.some(({ tile }) => tile === null)) return; // the whole picture stays until the small one is there
      const box = cellBox(frame, { grid: cells.grid, row, col });
      const side = size * box.width;
      const [left, top] = [box.left + (box.width - side) / 2, box.top + (box.height - side) / 2];
      context.fillRect(box.left - 1, box.top - 1, box.width + 2.5, box.height + 2.5);
      for (const { cellTile, tile } of cellTiles) {
        context.globalAlpha = cellTile.opacity;
        context.drawImage(tile as ImageBitmap, cellTile.left, cellTile.top, cellTile.side, cellTile.side, left, top, side, side);
      }
      context.globalAlpha = 1;
    });
  }

  /** Pictures that are to be taken with care: a corner, or only ground. */
  #drawLow(frame: Frame, { cells, low }: Scene, colours: Colours): void {
    const context = this.#context;
    forEachSeen(frame, cells, (i) => {
      if (!cells.flagged[i]) return;
      const { left, top, width } = cellBox(frame, { grid: cells.grid, row: cells.row[i] as number, col: cells.col[i] as number });
      context.fillStyle = colours.ground;
      if (low === 'hide') {
        context.fillRect(left - 1, top - 1, width + 2, width + 2);
        return;
      }
      const corner = Math.max(5, Math.min(14, width * 0.24));
      for (const [size, colour] of [[corner + 1.5, colours.ground], [corner, colours.ink]] as const) {
        context.fillStyle = colour;
        context.beginPath();
        context.moveTo(left + width, top);
        context.lineTo(left + width, top + size);
        context.lineTo(left + width - size, top);
        context.fill();
      }
    });
  }

  #drawNames(frame: Frame, scene: Scene, name: (index: number) => string, colours: Colours): PlacedLabel[] {
    const { cells } = scene;
    const block = blockOf(frame.side / cells.grid, cells.grid);
    if (this.#labels?.cells !== cells || this.#labels.block !== block) {
      this.#labels = { cells, block, labels: regionLabels(cells, block, scene.unnamed), widths: new Map() };
    }
    const { labels, widths } = this.#labels;
    const context = this.#context;
    const size = (label: Label) => Math.min(LARGEST_NAME, SMALLEST_NAME + Math.sqrt(label.weight / block / block));
    const font = (label: Label) => `600 ${size(label).toFixed(1)}px ${FAMILY}`;
    const at = (label: Label) => ({ x: frame.left + label.x * frame.side, y: frame.top + label.y * frame.side });
    const free = labels.filter((label) => {
      const { x, y } = at(label);
      return scene.panels.every(
        (panel) => x < panel.left - 40 || x > panel.left + panel.width + 40 || y < panel.top - 8 || y > panel.top + panel.height + 8,
      );
    });
    const measure = (label: Label) => {
      let width = widths.get(label);
      if (width === undefined) {
        context.font = font(label);
        width = context.measureText(name(label.index)).width;
        widths.set(label, width);
      }
      return { width, height: size(label) * 1.2 };
    };
    const placedLabels = placeLabels(free, at, measure, frame);
    context.textAlign = 'center';
    context.textBaseline = 'middle';
    context.lineJoin = 'round';
    for (const label of placedLabels) {
      const { x, y } = at(label);
      context.font = font(label);
      context.lineWidth = 3.5;
      context.strokeStyle = colours.ground;
      context.strokeText(name(label.index), x, y);
      context.fillStyle = colours.ink;
      context.fillText(name(label.index), x, y);
    }
    return placedLabels;
  }
}

/** Pixels (RGBA, side × side) as a canvas. */
function canvasOf(pixels: Uint8ClampedArray<ArrayBuffer>, side: number): HTMLCanvasElement {
  const picture = document.createElement('canvas');
  picture.width = picture.height = side;
  picture.getContext('2d')?.putImageData(new ImageData(pixels, side, side), 0, 0);
  return picture;
}

/** The side of each cell's picture as a share of the cell's: by the square root of its count beside those of most. */
export function sizesOf(cells: Cells, density: number): Float32Array {
  const counts = [...cells.count].filter((_, i) => cells.drawn[i]).sort((one, other) => one - other);
  const full = counts[Math.min(counts.length - 1, Math.floor(counts.length * FULL_SIZE))] ?? 1;
  return Float32Array.from(cells.count, (count) => {
    const size = Math.max(SMALLEST_CELL, Math.sqrt(Math.min(1, count / full)));
    return 1 - density * (1 - size);
  });
}

function forEachSeen(frame: Frame, cells: Cells, act: (index: number) => void): void {
  const side = frame.side / cells.grid;
  const from = (offset: number) => Math.max(0, Math.floor(-offset / side));
  const to = (offset: number, length: number) => Math.min(cells.grid - 1, Math.floor((length - offset) / side));
  for (let row = from(frame.top); row <= to(frame.top, frame.height); row++) {
    for (let col = from(frame.left); col <= to(frame.left, frame.width); col++) {
      const i = cells.find(row, col);
      if (i >= 0) act(i);
    }
  }
}

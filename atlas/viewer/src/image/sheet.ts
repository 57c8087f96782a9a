/** The icons of all positions of a layer on one canvas: stand-ins at first, then one by one the positions' own. */

import type { ExplainedLayer } from '../lib/api';
import type { Atlas, AtlasMap } from '../lib/atlas';
import { tileOfCell } from '../lib/pyramid';
import { loadTile } from '../lib/tiles';

/** Pixels of an icon on the sheet, where the whole sheet stays below WIDEST. */
const LARGEST_SIDE = 80;
const WIDEST = 1600;
/** Tiles that are fetched at once. */
const TOGETHER = 6;

export class IconSheet {
  readonly canvas: HTMLCanvasElement;
  /** Pixels of one icon's side. */
  readonly side: number;
  readonly cols: number;
  /** Positions whose own icon is there. */
  readonly own = new Set<number>();
  /** Positions that show an icon of either kind. */
  readonly filled = new Set<number>();
  /** Whether the reader has stopped it. */
  halted = false;
  readonly #context: CanvasRenderingContext2D;

  constructor({ rows, cols }: ExplainedLayer) {
    this.cols = cols;
    this.side = Math.min(LARGEST_SIDE, Math.floor(WIDEST / Math.max(rows, cols)));
    this.canvas = document.createElement('canvas');
    this.canvas.width = cols * this.side;
    this.canvas.height = rows * this.side;
    this.#context = this.canvas.getContext('2d') as CanvasRenderingContext2D;
    this.#context.imageSmoothingQuality = 'high';
  }

  /** The corner of a position's icon on the canvas. */
  corner(position: number): { x: number; y: number } {
    return { x: (position % this.cols) * this.side, y: Math.floor(position / this.cols) * this.side };
  }

  put(position: number, picture: ImageBitmap): void {
    this.own.add(position);
    this.#draw(position, picture, 0, 0, picture.width);
  }

  /** Draw for each position, until its own icon comes, the icon of the cell that it lands in. */
  async standIn(atlas: Atlas, atlasMap: AtlasMap, explainedLayer: ExplainedLayer, signal: AbortSignal, onDraw: () => void): Promise<void> {
    const places = explainedLayer.cell.flatMap((cell, position) => {
      if (!cell) return [];
      const [grid, row, col] = cell;
      return [{ position, ...tileOfCell(atlas, atlasMap, 'icons', { grid, row, col }) }];
    });
    const tiles = [...new Set(places.map(({ address }) => address))];
    for (let first = 0; first < tiles.length && !signal.aborted; first += TOGETHER) {
      await Promise.all(
        tiles.slice(first, first + TOGETHER).map(async (address) => {
          const tile = await loadTile(address);
          if (!tile || signal.aborted) return;
          for (const place of places) {
            if (place.address === address && !this.own.has(place.position)) this.#draw(place.position, tile, place.left, place.top, place.side);
          }
        }),
      );
      onDraw();
    }
  }

  #draw(position: number, picture: ImageBitmap, left: number, top: number, side: number): void {
    const { x, y } = this.corner(position);
    this.#context.drawImage(picture, left, top, side, side, x, y, this.side, this.side);
    this.filled.add(position);
  }
}

/** A picture from a data address. The page's policy lets no such address be loaded, so its bytes are taken out of it. */
export async function decodePicture(address: string): Promise<ImageBitmap> {
  const [, type, text] = /^data:([\w/+.-]+);base64,(.*)$/.exec(address) ?? [];
  if (type === undefined || text === undefined) throw new Error('the server sent an icon that is none');
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return createImageBitmap(new Blob([bytes], { type }));
}

/** Whether the network saw the middle square, give or take a pixel. */
export function isMiddle({ width, height, box }: { width: number; height: number; box: readonly number[] }): boolean {
  const [x, y, side] = [width / 2, height / 2, Math.min(width, height) / 2];
  return [x - side, y - side, x + side, y + side].every((edge, i) => Math.abs(edge - (box[i] as number)) <= 1);
}

/** The square of a picture that the network saw (or, before that is known, its middle), upright. */
export async function squareOf(picture: Blob, crop: { width: number; height: number; box: readonly number[] } | null): Promise<HTMLCanvasElement> {
  const whole = await createImageBitmap(picture);
  const { width, height } = whole;
  const middle = Math.min(width, height);
  const [left, top, right, bottom] = (
    crop ? crop.box.map((edge, i) => (i % 2 ? (edge * height) / crop.height : (edge * width) / crop.width)) : [(width - middle) / 2, (height - middle) / 2, (width + middle) / 2, (height + middle) / 2]
  ) as [number, number, number, number];
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = Math.round(Math.min(WIDEST / 2, Math.max(1, right - left)));
  const context = canvas.getContext('2d') as CanvasRenderingContext2D;
  context.imageSmoothingQuality = 'high';
  context.drawImage(whole, left, top, right - left, bottom - top, 0, 0, canvas.width, canvas.height);
  whole.close();
  return canvas;
}

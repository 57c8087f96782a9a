/** Downloads: the view or a level as a picture, cells as a table. */

import { classesOf, type Atlas, type AtlasMap } from './atlas';
import type { Cells } from './cells';
import { cellBox, type Frame } from './frame';
import type { CellRef } from './link';
import { tileOfCell, type TileKind } from './pyramid';
import type { Colours } from './theme';
import { loadTile } from './tiles';

/** Browsers draw no canvas that is much larger. */
const LARGEST_POSTER = 12_800;

/** Hand a file to the reader under a name, in which all but letters, digits, dots, dashes and underscores become dashes. */
export function download(content: Blob, name: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(content);
  link.download = name.replace(/[^\w.-]+/g, '-');
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** One of the maps in the view: its canvases from below to above, where it stands, from which share of its width on it is
 * seen, and which cells are marked. */
export interface MapInView {
  canvases: readonly HTMLCanvasElement[];
  frame: Frame;
  left: number;
  top: number;
  from: number;
  markedCells: readonly CellRef[];
}

/** The view as it is on the screen, without panels, as PNG. */
export function viewPicture(parts: readonly MapInView[], { ground, ink }: Colours): Promise<Blob> {
  const ratio = devicePixelRatio;
  const far = (side: (part: MapInView) => number) => Math.round(ratio * Math.max(...parts.map(side)));
  const [width, height] = [far(({ left, frame }) => left + frame.width), far(({ top, frame }) => top + frame.height)];
  return paintPng(width, height, ground, (context) => {
    context.scale(ratio, ratio);
    for (const { canvases, frame, left, top, from, markedCells } of parts) {
      context.save();
      context.translate(left, top);
      context.beginPath();
      context.rect(from * frame.width, 0, (1 - from) * frame.width, frame.height);
      context.clip();
      context.fillStyle = ground;
      context.fillRect(0, 0, frame.width, frame.height);
      for (const canvas of canvases) context.drawImage(canvas, 0, 0, frame.width, frame.height);
      for (const place of markedCells) {
        const box = cellBox(frame, place);
        for (const [colour, line] of [[ground, 6], [ink, 3]] as const) {
          context.lineWidth = line;
          context.strokeStyle = colour;
          context.strokeRect(box.left - 3, box.top - 3, box.width + 6, box.height + 6);
        }
      }
      context.restore();
    }
    return Promise.resolve();
  });
}

/** A whole level as one picture, icons at their own size unless it would be too large for a browser. */
export function poster(
  atlas: Atlas,
  atlasMap: AtlasMap,
  cells: Cells,
  picture: TileKind,
  ground: string,
  progress: (share: number) => void,
): Promise<Blob> {
  const size = Math.min(atlas.icon_size, Math.floor(LARGEST_POSTER / cells.grid));
  const rows = bounds(cells, cells.row);
  const cols = bounds(cells, cells.col);
  return paintPng((cols.last - cols.first + 1) * size, (rows.last - rows.first + 1) * size, ground, async (context) => {
    for (let i = 0; i < cells.length; i++) {
      if (!cells.drawn[i]) continue;
      const [row, col] = [cells.row[i] as number, cells.col[i] as number];
      const { address, left, top, side } = tileOfCell(atlas, atlasMap, picture, { grid: cells.grid, row, col });
      const tile = await loadTile(address);
      if (!tile) throw new Error(`the picture ${address} did not arrive`);
      context.drawImage(tile, left, top, side, side, (col - cols.first) * size, (row - rows.first) * size, size, size);
      if (i % 100 === 0) progress(i / cells.length);
    }
  });
}

function bounds(cells: Cells, places: Uint16Array): { first: number; last: number } {
  const visible = places.filter((_, i) => cells.drawn[i]);
  return visible.length ? { first: visible.reduce((a, b) => Math.min(a, b)), last: visible.reduce((a, b) => Math.max(a, b)) } : { first: 0, last: 0 };
}

async function paintPng(
  width: number,
  height: number,
  ground: string,
  paint: (context: CanvasRenderingContext2D) => Promise<void>,
): Promise<Blob> {
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext('2d') as CanvasRenderingContext2D;
  context.fillStyle = ground;
  context.fillRect(0, 0, width, height);
  await paint(context);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error('the browser could not make a PNG'))), 'image/png');
  });
}

const CLASSES = 5;

/** Cells, by their places in the columns, as CSV with a header (RFC 4180). */
export function cellsTable(atlas: Atlas, atlasMap: AtlasMap, cells: Cells, indices: readonly number[]): string {
  const numbers = Array.from({ length: CLASSES }, (_, i) => i + 1);
  const header = ['layer', 'grid', 'row', 'col', 'activations', 'mean_cosine', 'cosine', 'flag', ...numbers.flatMap((n) => [`class_${n}`, `${atlas.attributions ? 'attribution' : 'share'}_${n}`])];
  const names = classesOf(atlas, atlasMap);
  const lines = indices.map((index) => {
    const cell = cells.get(index);
    const classes = numbers.flatMap((n) => {
      const number = cell.classes[n - 1];
      return number === undefined ? ['', ''] : [names[number] ?? number, cell.values[n - 1]];
    });
    return [atlasMap.path, cell.grid, cell.row, cell.col, cell.count, cell.mean_cosine, cell.cosine ?? '', cell.flag ?? '', ...classes];
  });
  return [header, ...lines].map((line) => `${line.map(csvField).join(',')}\r\n`).join('');
}

function csvField(value: unknown): string {
  const text = typeof value === 'number' ? String(Number(value.toPrecision(6))) : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Tiles as pictures of their own, for what is drawn cell by cell and for saving; few are kept. */

const KEPT = 96;
/** Milliseconds after which a tile that did not arrive may be asked for again. */
const AGAIN = 10_000;
const bitmaps = new Map<string, Bitmap>();

interface Bitmap {
  /** Undefined while it is under way, null where it cannot be had. */
  picture: ImageBitmap | null | undefined;
  ready: Promise<ImageBitmap | null>;
}

/** A tile's picture where it is there already; else null, and `arrived` is called once it is. */
export function tileNow(address: string, arrived: () => void): ImageBitmap | null {
  const bitmap = kept(address);
  if (bitmap.picture === undefined) void bitmap.ready.then(arrived);
  return bitmap.picture ?? null;
}

/** A tile's picture; null where it cannot be had. */
export function loadTile(address: string): Promise<ImageBitmap | null> {
  return kept(address).ready;
}

function kept(address: string): Bitmap {
  const found = bitmaps.get(address);
  if (found) {
    bitmaps.delete(address);
    bitmaps.set(address, found);
    return found;
  }
  const bitmap: Bitmap = { picture: undefined, ready: fetchTile(address) };
  void bitmap.ready.then((picture) => {
    bitmap.picture = picture;
    if (!picture) setTimeout(() => bitmaps.delete(address), AGAIN);
  });
  bitmaps.set(address, bitmap);
  for (const [oldest, { picture }] of bitmaps) {
    if (bitmaps.size <= KEPT) break;
    picture?.close();
    bitmaps.delete(oldest);
  }
  return bitmap;
}

async function fetchTile(address: string): Promise<ImageBitmap | null> {
  try {
    const response = await fetch(address);
    return response.ok ? await createImageBitmap(await response.blob()) : null;
  } catch {
    return null;
  }
}

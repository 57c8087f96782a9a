/** Tiles as bitmaps, for what is drawn cell by cell and for saving, with a cache of the last used ones. */

const CACHE_SIZE = 96;
/** Milliseconds after which a tile that did not arrive may be requested again. */
const RETRY_AFTER = 10_000;
const bitmaps = new Map<string, Bitmap>();

interface Bitmap {
  /** Undefined while it is loading, null where loading failed. */
  picture: ImageBitmap | null | undefined;
  ready: Promise<ImageBitmap | null>;
}

/** A tile's picture where it is there already; else null, and `arrived` is called once it is. */
export function tileNow(address: string, arrived: () => void): ImageBitmap | null {
  const bitmap = bitmapOf(address);
  if (bitmap.picture === undefined) void bitmap.ready.then(arrived);
  return bitmap.picture ?? null;
}

/** A tile's picture; null where loading failed. */
export function loadTile(address: string): Promise<ImageBitmap | null> {
  return bitmapOf(address).ready;
}

function bitmapOf(address: string): Bitmap {
  const cached = bitmaps.get(address);
  if (cached) {
    bitmaps.delete(address);
    bitmaps.set(address, cached);
    return cached;
  }
  const bitmap: Bitmap = { picture: undefined, ready: fetchTile(address) };
  void bitmap.ready.then((picture) => {
    bitmap.picture = picture;
    if (!picture) setTimeout(() => bitmaps.delete(address), RETRY_AFTER);
  });
  bitmaps.set(address, bitmap);
  for (const [oldest, { picture }] of bitmaps) {
    if (bitmaps.size <= CACHE_SIZE) break;
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

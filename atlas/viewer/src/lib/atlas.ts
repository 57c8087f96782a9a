/** What atlas.json holds, and how files of the site are fetched. */

export interface Grid {
  grid: number;
  cells: number;
  drawn: number;
  median_cosine: number | null;
  flagged: number;
  /** Its icons are the quick ones, which stand in until its own are drawn. */
  quick?: boolean;
}

interface Network {
  name: string;
  input_size: number;
  classes: string[];
}

/** One map of the atlas: of all rows of a layer, or of those with an attribution to one class or to either of two. */
export interface AtlasMap {
  name: string;
  path: string;
  layer: string;
  network: number;
  classes_shown: string[];
  channels: number;
  map_size: [number, number];
  rows: number;
  dropped: number;
  grids: Grid[];
}

export interface Atlas {
  format: number;
  title: string;
  networks: Network[];
  icon_size: number;
  tile_size: number;
  /** Whether classes are given by attribution, with heat maps. */
  attributions: boolean;
  /** Whether there is a tour. */
  tour?: boolean;
  classes_per_file: number;
  /** The names of the pictures' own labels. */
  labels: string[];
  /** The path of the map that the page opens on. */
  opening_map?: string;
  layers: AtlasMap[];
  /** The layers with units; null, or missing, where the run has no neurons. */
  neurons?: { layers: UnitLayer[] } | null;
  /** What the run has yet to make; missing where all is there. */
  making?: Making;
  /** A digest of the page that the site was published with. */
  page?: string;
  provenance: Provenance;
  report: Report;
}

/** What of a site is still to come; times as ISO texts. */
export interface Making {
  /** Maps with the grids that are not there yet, and those that are there with quick icons. */
  maps: { name: string; path: string; grids: number[]; quick?: number[] }[];
  units: { layer: string; units: number }[];
  tour: boolean;
  written: string;
  /** When the run is expected to be done; missing where no run is at work. */
  expected_end?: string;
}

/** A layer whose units (channels) have pages of their own. */
export interface UnitLayer {
  layer: string;
  /** The folder of its units. */
  path: string;
  units: number;
  /** Layers of the same network from which a path leads here. */
  earlier: string[];
  /** Pixels of an icon on icons.webp, and icons across. */
  icon: number;
  across: number;
}

interface Provenance {
  images: string;
  views: number;
  seed: number;
  created: string | null;
  versions: Record<string, string>;
}

interface Report {
  layers: Record<
    string,
    {
      layout: { trustworthiness: number | null; recall: number | null; dropped_share: number };
      icons: Record<string, IconReport>;
    }
  >;
}

interface IconReport {
  n: number;
  median_cosine: number | null;
  median_cosine_whitened: number | null;
  median_cosine_robust: number | null;
  flagged_share: number | null;
}

/** An error whose message is meant for the reader: what happened and what to do. */
export class UserError extends Error {}

/** An error in words for the reader; `otherwise` words those that are no UserError. */
export function errorText(error: unknown, otherwise = (what: string) => what): string {
  return error instanceof UserError ? error.message : otherwise(String(error));
}

/** For the page as a whole. */
export function pageErrorText(what: string): string {
  return `Something in this page went wrong (${what}). Load it again; if that does not help, tell its authors.`;
}

/** For views that lie over the map. */
export function viewErrorText(what: string): string {
  return `Something in this view went wrong (${what}). Close it and open it again.`;
}

export async function fetchJson(address: string): Promise<unknown> {
  return await parseJson(await request(address), address);
}

async function parseJson(response: Response, address: string): Promise<unknown> {
  try {
    return await response.json();
  } catch {
    throw damagedFile(address);
  }
}

export async function fetchBytes(address: string): Promise<ArrayBuffer> {
  const response = await request(address);
  try {
    return await response.arrayBuffer();
  } catch {
    throw damagedFile(address);
  }
}

export function damagedFile(address: string): UserError {
  return new UserError(`${address} is cut short or damaged. Copy the site again, or give atlas run CONFIG again.`);
}

export async function request(address: string): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(address);
  } catch {
    throw new UserError(
      `The server does not answer (${address}). Start it again with atlas serve, then load this page again.`,
    );
  }
  if (response.status >= 500) {
    throw new UserError(`The server could not give ${address} (answer ${response.status}). Move the map or load the page again.`);
  }
  if (!response.ok) {
    throw new UserError(
      `The site has no ${address} (answer ${response.status}). ` +
        'If the run is still going, wait until it ends and load this page again; if not, give atlas run CONFIG again.',
    );
  }
  return response;
}

/** The folder of a map, or of a layer's units, as part of an address. */
export function folderAddress(layer: { path: string }): string {
  return layer.path.split('/').map(encodeURIComponent).join('/');
}

export function gridAddress(atlasMap: AtlasMap, grid: number): string {
  return `${folderAddress(atlasMap)}/grid-${String(grid).padStart(3, '0')}`;
}

/** Where a grid's icons lie, and what depends on them. */
export function iconsAddress(atlasMap: AtlasMap, grid: number): string {
  const folder = gridAddress(atlasMap, grid);
  return isQuick(atlasMap, grid) ? `${folder}/quick` : folder;
}

/** Whether a grid's icons are the quick ones so far. */
export function isQuick(atlasMap: AtlasMap, grid: number): boolean {
  return atlasMap.grids.some((entry) => entry.grid === grid && entry.quick);
}

/** The grids of a map, coarsest first. */
export function gridSizes(atlasMap: AtlasMap): number[] {
  return atlasMap.grids.map((entry) => entry.grid).sort((a, b) => a - b);
}

/** The map that the run opens on; without one that of the middle layer of the first network. */
export function openingMap(atlas: Atlas): AtlasMap {
  const configured = atlas.layers.find((atlasMap) => atlasMap.path === atlas.opening_map);
  if (configured) return configured;
  const whole = atlas.layers.filter((atlasMap) => atlasMap.classes_shown.length === 0);
  const own = whole.filter((atlasMap) => atlasMap.network === 0);
  const among = [own, whole, atlas.layers].find((layers) => layers.length > 0) as AtlasMap[];
  return among[Math.floor(among.length / 2)] as AtlasMap;
}

/** The class names of a map's network. */
export function classesOf(atlas: Atlas, atlasMap: AtlasMap): string[] {
  return atlas.networks[atlasMap.network]?.classes ?? [];
}

/** atlas.json: how it is first read, and how a newer one is noticed. */

import { damagedFile, request, UserError, type Atlas } from './atlas';

const ADDRESS = 'atlas.json';
export const FORMAT = 7;

/** What was read: its text, and the headers by which a server says that there is no newer one. */
export interface AtlasVersion {
  text: string;
  conditions: Record<string, string>;
}

/** What a site holds, and whether the server behind it also answers about pictures (see api.ts). */
export interface Site {
  atlas: Atlas;
  version: AtlasVersion;
  hasApi: boolean;
}

export async function loadAtlas(): Promise<Site> {
  if (location.protocol === 'file:') {
    throw new UserError(
      'A browser does not let a page opened as a file read its map. ' +
        'Serve the run instead: atlas serve runs/NAME, then open the address that it prints.',
    );
  }
  const response = await request(ADDRESS);
  const { atlas, version } = await read(response);
  if (atlas.format !== FORMAT) {
    throw new UserError(
      `This page reads sites of format ${FORMAT}, and this site has format ${atlas.format}. ` +
        'Finish the run again with the present version: atlas run CONFIG.',
    );
  }
  if (atlas.layers.length === 0) {
    throw new UserError('This atlas holds no layer yet. Finish the run: atlas run CONFIG.');
  }
  return { atlas, version, hasApi: response.headers.get('x-atlas-api') === '1' };
}

/** atlas.json where it is another than this version, and else null: it is the same, or cannot be read at present. */
export async function lookAgain(before: AtlasVersion): Promise<{ atlas: Atlas | null; version: AtlasVersion }> {
  try {
    const response = await fetch(ADDRESS, { headers: before.conditions, cache: 'no-store' });
    if (!response.ok) return { atlas: null, version: before }; // 304, or the site is being made anew
    const { atlas, version } = await read(response);
    return { atlas: version.text === before.text ? null : atlas, version };
  } catch {
    return { atlas: null, version: before }; // the server may be back later
  }
}

async function read(response: Response): Promise<{ atlas: Atlas; version: AtlasVersion }> {
  try {
    const text = await response.text();
    return { atlas: JSON.parse(text) as Atlas, version: { text, conditions: conditionsOf(response.headers) } };
  } catch {
    throw damagedFile(ADDRESS);
  }
}

/** A time tells two versions apart only where no second one can have been written in the same second. */
export function conditionsOf(headers: Headers): Record<string, string> {
  const [etag, modified, date] = ['etag', 'last-modified', 'date'].map((name) => headers.get(name));
  if (etag) return { 'if-none-match': etag };
  if (modified && date && Date.parse(modified) < Date.parse(date)) return { 'if-modified-since': modified };
  return {};
}

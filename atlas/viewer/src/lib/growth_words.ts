/** What is still being made, and how long it takes, in words. */

import type { Atlas, Making } from './atlas';
import { count } from './words';

const MINUTE = 60_000;
/** Milliseconds after the expected end, or after the last news, in which a run is still taken to be at work. */
const PATIENCE = 10 * MINUTE;
/** Names in a list; of more, the first ones and how many others. */
const MOST_NAMES = 3;

/** What is to come: "sharper pictures and finer levels of _blocks.10; the map of _blocks.15; 96 units; the tour". */
export function makingWords(making: Making, atlas: Atlas): string {
  const isThere = (path: string) => atlas.layers.some((atlasMap) => atlasMap.path === path);
  const quick = making.maps.filter((one) => one.quick?.length).map(({ name }) => name);
  const further = making.maps.filter(({ path, grids }) => isThere(path) && grids.length).map(({ name }) => name);
  const absent = making.maps.filter(({ path }) => !isThere(path)).map(({ name }) => name);
  const units = making.units.reduce((sum, layer) => sum + layer.units, 0);
  const both = quick.filter((name) => further.includes(name));
  const only = (names: readonly string[]) => names.filter((name) => !both.includes(name));
  return [
    ...(both.length ? [`sharper pictures and finer levels of ${list(both, 'maps')}`] : []),
    ...(only(quick).length ? [`sharper pictures of ${list(only(quick), 'maps')}`] : []),
    ...(only(further).length ? [`finer levels of ${list(only(further), 'maps')}`] : []),
    ...(absent.length ? [`the map${absent.length > 1 ? 's' : ''} of ${list(absent, 'others')}`] : []),
    ...(units ? [count(units, 'unit', 'units')] : []),
    ...(making.tour ? ['the tour'] : []),
  ].join('; ');
}

function list(names: readonly string[], others: string): string {
  const short = names.length > MOST_NAMES ? [...names.slice(0, MOST_NAMES - 1), `${names.length - MOST_NAMES + 1} ${others}`] : names;
  return short.length > 1 ? `${short.slice(0, -1).join(', ')} and ${short.at(-1)}` : (short[0] as string);
}

/** A time to wait: "about 6 min". */
export function waitWords(milliseconds: number): string {
  const minutes = Math.round(milliseconds / MINUTE);
  if (minutes < 1) return 'less than a minute';
  if (minutes < 90) return `about ${minutes} min`;
  const hours = Math.round(minutes / 60);
  return hours < 36 ? `about ${hours} h` : `about ${Math.round(hours / 24)} days`;
}

/** Whether so much more time has gone by than the run was expected to take that it may have stopped. */
export function isLate(making: Making, now: number): boolean {
  const written = Date.parse(making.written);
  const end = making.expected_end === undefined ? written : Date.parse(making.expected_end);
  return now > end + Math.max(PATIENCE, (end - written) / 2);
}

/** When something was, as one says it today: "14:05", or with its day. */
export function momentWords(time: string, now: number): string {
  const moment = new Date(time);
  const isToday = moment.toDateString() === new Date(now).toDateString();
  return moment.toLocaleString('en-GB', { hour: '2-digit', minute: '2-digit', ...(isToday ? {} : { day: 'numeric', month: 'long' }) });
}

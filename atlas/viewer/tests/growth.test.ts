import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import type { Atlas, AtlasMap, Making } from '../src/lib/atlas';
import { conditionsOf, FORMAT, lookAgain, type AtlasVersion } from '../src/lib/atlas_file';
import { growing, grown, holds } from '../src/lib/growing.svelte';
import { Growth } from '../src/lib/growth.svelte';
import { isLate, makingWords, momentWords, waitWords } from '../src/lib/growth_words';
import { PageState } from '../src/lib/page_state.svelte';

const NOW = Date.parse('2026-05-04T14:03:00+00:00');
const MINUTE = 60_000;

function madeMap(path: string, grids: number[]): AtlasMap {
  const levels = grids.map((grid) => ({ grid, cells: 1, drawn: 1, median_cosine: null, flagged: 0 }));
  return { name: path, path, layer: path, network: 0, classes_shown: [], channels: 8, map_size: [14, 14], rows: 10, dropped: 0, grids: levels };
}

function making(changes: Partial<Making> = {}): Making {
  return { maps: [], units: [], tour: true, written: '2026-05-04T14:02:00+00:00', expected_end: '2026-05-04T14:09:00+00:00', ...changes };
}

function madeAtlas(layers: AtlasMap[], changes: Partial<Atlas> = {}): Atlas {
  return {
    format: FORMAT,
    title: 'demo',
    networks: [{ name: 'net', input_size: 224, classes: ['tench', 'tabby'] }],
    icon_size: 80,
    tile_size: 640,
    attributions: true,
    classes_per_file: 50,
    labels: [],
    opening_map: 'late',
    layers,
    provenance: { images: 'pictures', views: 1, seed: 0, created: null, versions: {} },
    report: { layers: {} },
    ...changes,
  };
}

const units = (layer: string) => ({ layer, path: `neurons/${layer}`, units: 8, earlier: [], icon: 96, across: 16 });

describe('a growing atlas', () => {
  it('keeps its maps, networks and units as the same objects', () => {
    const before = growing(madeAtlas([madeMap('late', [10])], { neurons: { layers: [units('late')] } }));
    const [late] = before.layers as [AtlasMap];
    const next = madeAtlas([madeMap('early', [10]), madeMap('late', [10, 20])], { neurons: { layers: [units('early'), units('late')] } });
    const after = grown(before, next);
    expect(after.layers.map(({ path }) => path)).toEqual(['early', 'late']);
    expect(after.layers[1]).toBe(late);
    expect(late.grids.map(({ grid }) => grid)).toEqual([10, 20]);
    expect(after.networks).toBe(before.networks);
    expect(after.neurons?.layers[1]).toBe(before.neurons?.layers[0]);
    expect(after.neurons?.layers[0]?.layer).toBe('early');
  });

  it('loses nothing that is shown', () => {
    const before = madeAtlas([madeMap('late', [10, 20])]);
    expect(holds(madeAtlas([madeMap('early', [10]), madeMap('late', [10, 20, 40])]), before)).toBe(true);
    expect(holds(madeAtlas([madeMap('late', [10, 40])]), before)).toBe(false);
    expect(holds(madeAtlas([madeMap('early', [10, 20])]), before)).toBe(false);
  });

  it('leaves the page’s state as it is', () => {
    const pageState = new PageState(madeAtlas([madeMap('late', [10])]), { classes: ['tabby'], cells: [{ grid: 10, row: 1, col: 2 }] });
    const [shownMap, key] = [pageState.atlasMap, pageState.historyKey];
    pageState.grow(madeAtlas([madeMap('early', [10]), madeMap('late', [10, 20])]));
    expect(pageState.atlasMap).toBe(shownMap);
    expect(pageState.atlas.layers.indexOf(shownMap)).toBe(1);
    expect(pageState.historyKey).toBe(key);
    expect(pageState.levelOrNull(20)).toBe(20);
  });
});

describe('the words', () => {
  const atlas = madeAtlas([madeMap('late', [10])]);
  const map = (path: string) => ({ name: path, path, grids: [20] });

  it('name what comes', () => {
    expect(makingWords(making({ maps: [map('late'), map('early')], units: [{ layer: 'late', units: 96 }] }), atlas)).toBe(
      'finer levels of late; the map of early; 96 units; the tour',
    );
    const quick = { ...map('late'), quick: [10] };
    expect(makingWords(making({ maps: [quick], tour: false }), atlas)).toBe('sharper pictures and finer levels of late');
    expect(makingWords(making({ maps: [{ ...quick, grids: [] }], tour: false }), atlas)).toBe('sharper pictures of late');
    expect(makingWords(making({ maps: ['a', 'b'].map(map), tour: false }), atlas)).toBe('the maps of a and b');
    expect(makingWords(making({ maps: ['a', 'b', 'c', 'd', 'e'].map(map), tour: false }), atlas)).toBe('the maps of a, b and 3 others');
    expect(makingWords(making({ units: [{ layer: 'a', units: 1000 }, { layer: 'b', units: 200 }], tour: false }), atlas)).toBe('1,200 units');
  });

  it.each([
    [20_000, 'less than a minute'],
    [-MINUTE, 'less than a minute'],
    [6.4 * MINUTE, 'about 6 min'],
    [100 * MINUTE, 'about 2 h'],
    [50 * 60 * MINUTE, 'about 2 days'],
  ])('tell a time to wait of %i ms', (milliseconds, words) => expect(waitWords(milliseconds)).toBe(words));

  it('tell when something was, with its day where that is another', () => {
    const noon = new Date(2026, 4, 4, 12, 5).getTime();
    expect(momentWords(new Date(noon).toISOString(), noon + MINUTE)).toBe('12:05');
    expect(momentWords(new Date(noon).toISOString(), noon + 24 * 60 * MINUTE)).toMatch(/^4 May.*12:05$/);
  });

  it('give a run half as long again as was expected, and ten minutes at least', () => {
    const end = Date.parse('2026-05-04T14:09:00+00:00');
    expect(isLate(making(), end + 10 * MINUTE)).toBe(false);
    expect(isLate(making(), end + 10 * MINUTE + 1)).toBe(true);
    const long = making({ written: '2026-05-04T10:09:00+00:00' });
    expect(isLate(long, end + 120 * MINUTE)).toBe(false);
    expect(isLate(long, end + 120 * MINUTE + 1)).toBe(true);
    const unknown = making();
    delete unknown.expected_end;
    expect(isLate(unknown, Date.parse(unknown.written) + 10 * MINUTE + 1)).toBe(true);
  });
});

describe('a look at atlas.json', () => {
  afterEach(() => void vi.unstubAllGlobals());

  it('asks by what the server gives', () => {
    const [modified, later] = ['Mon, 04 May 2026 14:03:00 GMT', 'Mon, 04 May 2026 14:03:01 GMT'];
    expect(conditionsOf(new Headers({ etag: '"a"', 'last-modified': modified }))).toEqual({ 'if-none-match': '"a"' });
    expect(conditionsOf(new Headers({ 'last-modified': modified, date: later }))).toEqual({ 'if-modified-since': modified });
    expect(conditionsOf(new Headers({ 'last-modified': modified, date: modified }))).toEqual({});
    expect(conditionsOf(new Headers({ 'last-modified': modified }))).toEqual({});
  });

  it.each([
    ['is the same', () => new Response(null, { status: 304 })],
    ['is not there', () => new Response('', { status: 404 })],
    ['is cut short', () => new Response('{"format": 6')],
    ['does not arrive', () => Promise.reject(new TypeError('gone'))],
    ['is sent once more', () => new Response('old')],
  ])('brings nothing where it %s', async (_, answer) => {
    vi.stubGlobal('fetch', vi.fn(answer));
    const before: AtlasVersion = { text: 'old', conditions: { 'if-none-match': '"a"' } };
    expect(await lookAgain(before)).toEqual({ atlas: null, version: before });
    expect(fetch).toHaveBeenCalledWith('atlas.json', { headers: before.conditions, cache: 'no-store' });
  });

  it('learns of a better condition from the same text', async () => {
    vi.stubGlobal('fetch', vi.fn(() => new Response('{}', { headers: { etag: '"b"' } })));
    expect(await lookAgain({ text: '{}', conditions: {} })).toEqual({ atlas: null, version: { text: '{}', conditions: { 'if-none-match': '"b"' } } });
  });
});

describe('an open page', () => {
  let turn: () => void;
  let streams: { onmessage: (event: { data: string }) => void; onerror: () => void; readyState: number; close: () => void }[];
  let onServer: Atlas;
  const seen = { visibilityState: 'visible' };
  const early = { name: 'early', path: 'early', grids: [10] };

  beforeEach(() => {
    vi.useFakeTimers({ now: NOW });
    streams = [];
    seen.visibilityState = 'visible';
    onServer = madeAtlas([madeMap('late', [10])], { making: making({ maps: [early] }) });
    vi.stubGlobal('document', Object.assign(seen, { addEventListener: (_: string, listener: () => void) => (turn = listener), removeEventListener: () => undefined }));
    vi.stubGlobal(
      'EventSource',
      Object.assign(
        class {
          readyState = 1;
          close = vi.fn();
          onmessage = () => undefined;
          onerror = () => undefined;
          constructor(readonly address: string) {
            streams.push(this);
          }
        },
        { CLOSED: 2 },
      ),
    );
    vi.stubGlobal('fetch', vi.fn(() => Promise.resolve(new Response(JSON.stringify(onServer)))));
  });

  afterEach(() => {
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });

  function follow(hasApi: boolean): { growth: Growth; pageState: PageState; end: () => void } {
    const pageState = new PageState(onServer, {});
    const growth = new Growth(pageState, { atlas: onServer, version: { text: JSON.stringify(onServer), conditions: {} }, hasApi });
    return { growth, pageState, end: growth.follow() };
  }

  async function say(facts: object): Promise<void> {
    streams.at(-1)?.onmessage({ data: JSON.stringify({ atlas: 'a', state: 'running', seconds_left: null, ...facts }) });
    await vi.advanceTimersByTimeAsync(0);
  }

  it('looks every 15 s behind a file server, while it is seen, until all is there', async () => {
    const { growth, pageState } = follow(false);
    await vi.advanceTimersByTimeAsync(0);
    expect([growth.words, growth.wait]).toEqual(['Still being made: the map of early; the tour', 'about 6 min']);
    expect(fetch).toHaveBeenCalledTimes(1);
    await vi.advanceTimersByTimeAsync(30_000);
    expect(fetch).toHaveBeenCalledTimes(3);
    seen.visibilityState = 'hidden';
    turn();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(fetch).toHaveBeenCalledTimes(3);
    onServer = madeAtlas([madeMap('early', [10]), madeMap('late', [10])]);
    seen.visibilityState = 'visible';
    turn();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(fetch).toHaveBeenCalledTimes(4);
    expect([growth.words, pageState.atlas.layers.length]).toEqual([null, 2]);
    turn();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(fetch).toHaveBeenCalledTimes(4);
  });

  it('says so when nothing new comes', async () => {
    const { growth } = follow(false);
    await vi.advanceTimersByTimeAsync(17 * MINUTE);
    expect(growth.words).toMatch(/^Not finished: the map of early; the tour\. Nothing new has come since \d\d:\d\d; the run may have stopped\.$/);
    expect(growth.wait).toBe(null);
  });

  it('is told by events, and looks only when atlas.json is another', async () => {
    const { growth, pageState } = follow(true);
    expect(fetch).not.toHaveBeenCalled();
    await say({ seconds_left: 600 });
    expect(fetch).toHaveBeenCalledTimes(1);
    expect(growth.wait).toBe('about 10 min');
    await say({ seconds_left: 60 });
    expect(fetch).toHaveBeenCalledTimes(1);
    expect(growth.wait).toBe('about 1 min');
    await say({ state: 'stopped' });
    expect(growth.words).toBe('Not finished: the map of early; the tour. The run has stopped; the same command, atlas run, goes on from there.');
    onServer = madeAtlas([madeMap('early', [10]), madeMap('late', [10])]);
    await say({ atlas: 'b', state: 'done' });
    expect([growth.words, pageState.atlas.layers.length]).toEqual([null, 2]);
    expect(streams.at(-1)?.close).toHaveBeenCalled();
  });

  it('believes in no state that a lost stream has told', async () => {
    const { growth } = follow(true);
    await say({ state: 'stopped' });
    streams[0]?.onerror();
    expect(growth.words).toBe('Still being made: the map of early; the tour');
    expect(streams.length).toBe(1);
  });

  it('looks now and then where it is refused events', async () => {
    follow(true);
    const [stream] = streams as [(typeof streams)[number]];
    stream.readyState = 2;
    stream.onerror();
    await vi.advanceTimersByTimeAsync(15_000);
    expect(fetch).toHaveBeenCalledTimes(2);
    expect(streams.length).toBe(1);
  });

  it('looks now and then where a proxy keeps events back', async () => {
    follow(true);
    await vi.advanceTimersByTimeAsync(15_000);
    expect(fetch).toHaveBeenCalledTimes(1);
    await vi.advanceTimersByTimeAsync(15_000);
    expect(fetch).toHaveBeenCalledTimes(2);
    expect(streams[0]?.close).toHaveBeenCalled();
  });

  it('offers to load another build or another run, of which it shows only the first', async () => {
    const { growth, pageState } = follow(false);
    onServer = madeAtlas([madeMap('late', [10, 20])], { making: making(), page: 'another' });
    await vi.advanceTimersByTimeAsync(15_000);
    expect([growth.outdated, pageState.atlasMap.grids.length]).toEqual([true, 2]);
    onServer = madeAtlas([madeMap('other', [10])], { making: making() });
    await vi.advanceTimersByTimeAsync(15_000);
    expect([growth.outdated, pageState.atlas.layers.length]).toEqual([true, 1]);
    expect(pageState.atlasMap.path).toBe('late');
  });

  it('ends with the page', async () => {
    const { end } = follow(false);
    await vi.advanceTimersByTimeAsync(0);
    end();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(fetch).toHaveBeenCalledTimes(1);
  });

  it('follows nothing where all is there', async () => {
    onServer = madeAtlas([madeMap('late', [10])]);
    expect(follow(true).growth.words).toBe(null);
    await vi.advanceTimersByTimeAsync(60_000);
    expect([streams.length, vi.mocked(fetch).mock.calls.length]).toEqual([0, 0]);
  });
});

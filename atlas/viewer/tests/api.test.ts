import { afterEach, describe, expect, it, vi } from 'vitest';

import { askLimits, explain, explainClasses, explainIcons, explainRemoved, isAbort, type PositionIcon } from '../src/lib/api';
import { UserError } from '../src/lib/atlas';

const picture = new Blob(['a picture']);
const signal = () => new AbortController().signal;

/** A server that answers with these pieces of a body. */
function serve(pieces: readonly string[], status = 200): ReturnType<typeof vi.fn> {
  const body = new ReadableStream<Uint8Array>({
    start(control) {
      for (const piece of pieces) control.enqueue(new TextEncoder().encode(piece));
      control.close();
    },
  });
  const fetch = vi.fn(() => Promise.resolve(new Response(body, { status })));
  vi.stubGlobal('fetch', fetch);
  return fetch;
}

async function all<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const items: T[] = [];
  for await (const item of stream) items.push(item);
  return items;
}

afterEach(() => void vi.unstubAllGlobals());

describe('the questions', () => {
  it('send the picture as the body, below the page’s own address', async () => {
    const fetch = serve(['{"classes": {}}']);
    await explainClasses(picture, 1, [3, 8], signal());
    expect(fetch.mock.calls[0]?.[0]).toBe('api/explain/classes?network=1&class=3&class=8');
    expect(fetch.mock.calls[0]?.[1]).toMatchObject({ method: 'POST', body: picture });
  });

  it('send no picture where there is none to send', async () => {
    const fetch = serve(['{"ready": true, "limits": {"bytes": 5, "pixels": 6}}']);
    expect(await askLimits(signal())).toEqual({ ready: true, limits: { bytes: 5, pixels: 6 } });
    expect(fetch.mock.calls[0]?.[1]).not.toHaveProperty('body');
  });
});

describe('streams', () => {
  it('are read line by line, wherever the pieces are cut', async () => {
    serve(['{"position": 1, "pic', 'ture": "ü", "cosine": 1}\n{"position"', ': 2, "picture": "", "cosine": 0}\n\n', '{"position": 3}']);
    const icons = await all<PositionIcon>(explainIcons(picture, '_blocks.4', signal()));
    expect(icons.map(({ position }) => position)).toEqual([1, 2, 3]);
    expect(icons[0]?.picture).toBe('ü');
  });

  it('end with the sentence that comes in them', async () => {
    serve(['{"share": 0.5}\n', '{"sentence": "The memory is full. Take a smaller picture."}\n']);
    const items: unknown[] = [];
    const read = async () => {
      for await (const item of explainRemoved(picture, 'a', [0], signal())) items.push(item);
    };
    await expect(read()).rejects.toThrow('The memory is full. Take a smaller picture.');
    expect(items).toEqual([{ share: 0.5 }]);
  });

  it('that are cut short say that the server is gone', async () => {
    serve(['{"share": 0.5}\n{"sha']);
    await expect(all(explainRemoved(picture, 'a', [0], signal()))).rejects.toThrow('does not answer any more');
  });

  it('are closed when the loop is left', async () => {
    let closed = false;
    const body = new ReadableStream<Uint8Array>({
      pull: (control) => control.enqueue(new TextEncoder().encode('{"position": 0}\n')),
      cancel: () => void (closed = true),
    });
    vi.stubGlobal('fetch', () => Promise.resolve(new Response(body)));
    for await (const icon of explainIcons(picture, 'a', signal())) if (icon.position === 0) break;
    expect(closed).toBe(true);
  });
});

describe('failures', () => {
  it('show the server’s own sentence', async () => {
    serve(['{"sentence": "This is no picture."}'], 415);
    const explanation = explain(picture, signal());
    await expect(explanation).rejects.toBeInstanceOf(UserError);
    await expect(explanation).rejects.toThrow('This is no picture.');
  });

  it('without one tell the status and what to do', async () => {
    serve(['<h1>Bad gateway</h1>'], 502);
    await expect(explain(picture, signal())).rejects.toThrow(/status 502.*Give the picture again/);
  });

  it('of a server that is gone are one sentence', async () => {
    vi.stubGlobal('fetch', () => Promise.reject(new TypeError('Failed to fetch')));
    await expect(explain(picture, signal())).rejects.toThrow('does not answer any more. Start it again');
  });

  it('leave an abort as it is', async () => {
    vi.stubGlobal('fetch', () => Promise.reject(new DOMException('aborted', 'AbortError')));
    const error = await explain(picture, signal()).catch((reason: unknown) => reason);
    expect(isAbort(error)).toBe(true);
    expect(error).not.toBeInstanceOf(UserError);
  });
});

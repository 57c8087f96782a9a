import { expect, test } from 'vitest';

import { cancellable } from '../src/lib/cancellable';

/** A running task with the events that it caused, and functions that end it. */
function startTask() {
  const events: unknown[] = [];
  let answer: (value: string) => void = () => undefined;
  let refuse: (error: unknown) => void = () => undefined;
  const ask = (signal: AbortSignal) =>
    new Promise<string>((resolve, reject) => {
      [answer, refuse] = [resolve, reject];
      signal.addEventListener('abort', () => events.push('ended'));
    });
  const end = cancellable(ask, (value) => events.push(value), (error) => events.push(error));
  const turn = () => new Promise((resolve) => setTimeout(resolve));
  return { events, end, answer: (value: string) => (answer(value), turn()), refuse: (error: unknown) => (refuse(error), turn()) };
}

test('callbacks get a result or an error', async () => {
  const [one, other] = [startTask(), startTask()];
  await one.answer('yes');
  await other.refuse('no');
  expect([one.events, other.events]).toEqual([['yes'], ['no']]);
});

test('no callback runs after cancelling', async () => {
  const [one, other] = [startTask(), startTask()];
  one.end();
  other.end();
  await one.answer('yes');
  await other.refuse('no');
  expect([one.events, other.events]).toEqual([['ended'], ['ended']]);
});

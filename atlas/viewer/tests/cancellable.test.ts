import { expect, test } from 'vitest';

import { cancellable } from '../src/lib/cancellable';

/** What is heard of a question, and the question itself. */
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
  return { heard: events, end, answer: (value: string) => (answer(value), turn()), refuse: (error: unknown) => (refuse(error), turn()) };
}

test('an answer is heard, and a failure', async () => {
  const [one, other] = [startTask(), startTask()];
  await one.answer('yes');
  await other.refuse('no');
  expect([one.heard, other.heard]).toEqual([['yes'], ['no']]);
});

test('what comes after the end is not heard', async () => {
  const [one, other] = [startTask(), startTask()];
  one.end();
  other.end();
  await one.answer('yes');
  await other.refuse('no');
  expect([one.heard, other.heard]).toEqual([['ended'], ['ended']]);
});

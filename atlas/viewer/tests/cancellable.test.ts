import { expect, test } from 'vitest';

import { cancellable } from '../src/lib/cancellable';

/** What is heard of a question, and the question itself. */
function asked() {
  const heard: unknown[] = [];
  let answer: (value: string) => void = () => undefined;
  let refuse: (error: unknown) => void = () => undefined;
  const ask = (signal: AbortSignal) =>
    new Promise<string>((resolve, reject) => {
      [answer, refuse] = [resolve, reject];
      signal.addEventListener('abort', () => heard.push('ended'));
    });
  const end = cancellable(ask, (value) => heard.push(value), (error) => heard.push(error));
  const turn = () => new Promise((resolve) => setTimeout(resolve));
  return { heard, end, answer: (value: string) => (answer(value), turn()), refuse: (error: unknown) => (refuse(error), turn()) };
}

test('an answer is heard, and a failure', async () => {
  const [one, other] = [asked(), asked()];
  await one.answer('yes');
  await other.refuse('no');
  expect([one.heard, other.heard]).toEqual([['yes'], ['no']]);
});

test('what comes after the end is not heard', async () => {
  const [one, other] = [asked(), asked()];
  one.end();
  other.end();
  await one.answer('yes');
  await other.refuse('no');
  expect([one.heard, other.heard]).toEqual([['ended'], ['ended']]);
});

/** Opens one picture as a link asks for it: the tour's own, or a sample of the run's. */

import type { Subject } from '../image/subject.svelte';
import { askSamples } from '../lib/api';
import { UserError } from '../lib/atlas';
import type { TourStep } from './tour';

const NAME = 'Picture of the tour';

/** Give the subject a picture; resolves with its name as soon as it is on the way. Throws a UserError. */
export async function openPicture(subject: Subject, step: TourStep | null): Promise<string | null> {
  subject.openPanel();
  if (step?.picture_to_open) {
    const response = await fetch(step.picture_to_open).catch(() => null);
    if (!response?.ok) throw new UserError(`The site has no ${step.picture_to_open}. Finish the run again: atlas run CONFIG.`);
    const file = new File([await response.blob()], NAME, { type: 'image/webp' });
    void subject.take([file]);
    return NAME;
  }
  const [sample] = await askSamples(new AbortController().signal);
  if (!sample) return null;
  void subject.takeSample(sample);
  return sample.title;
}

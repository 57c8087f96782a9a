/** What a person has dropped, pasted or chosen: the one picture in it, or an error that says why there is none. */

import type { Limits } from '../lib/api';
import { UserError } from '../lib/atlas';

interface ChosenFile {
  file: File;
  /** A remark for the reader; null where there is none. */
  note: string | null;
}

/** The first picture of several files. Throws a UserError that names the files where none is a picture. */
export function pictureAmong(files: readonly File[]): ChosenFile {
  const file = files.find(mayBePicture);
  if (!file) {
    const first = files[0];
    if (!first) throw new UserError('No file was given. Give a picture, such as a JPEG, PNG or WebP file.');
    const others = files.length > 1 ? ` So it is with the ${files.length - 1} other ${files.length === 2 ? 'file' : 'files'}.` : '';
    throw new UserError(`“${first.name}” is ${kindOf(first)}, not a picture.${others} Give a picture, such as a JPEG, PNG or WebP file.`);
  }
  if (files.length === 1) return { file, note: null };
  return { file, note: `${files.length} files were given. This is the first picture among them, “${file.name}”; one is shown at a time.` };
}

/** Throws a UserError where the file is larger than the server takes. */
export function refuseLarge(file: File, limits: Limits): void {
  if (file.size <= limits.bytes) return;
  throw new UserError(
    `“${file.name}” has ${megabytes(file.size)}, and the server takes pictures of ${megabytes(limits.bytes)} at most. ` +
      'Save it smaller, then give it again: the network sees only a few hundred pixels of it.',
  );
}

/** Browsers take the type from the file's extension; a file without a known type may still be a picture. */
function mayBePicture(file: File): boolean {
  return file.type === '' || file.type.startsWith('image/');
}

const FILE_KINDS: readonly [RegExp, string][] = [
  [/^video\//, 'a video'],
  [/^audio\//, 'a sound'],
  [/^application\/pdf/, 'a PDF document'],
  [/^application\/(zip|gzip|x-(tar|7z|rar|zip).*)/, 'an archive'],
  [/^text\//, 'a text'],
];

function kindOf(file: File): string {
  const kind = FILE_KINDS.find(([type]) => type.test(file.type))?.[1];
  return kind ? `${kind} (${file.type})` : `of the kind ${file.type}`;
}

function megabytes(bytes: number): string {
  const size = bytes / 1e6;
  return `${size < 10 ? size.toFixed(1) : Math.round(size)} MB`;
}

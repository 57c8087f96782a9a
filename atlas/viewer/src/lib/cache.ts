/** Files that are fetched once and kept while they are among the last used ones. */

export class Kept<T> {
  readonly #promises = new Map<string, Promise<T>>();
  readonly #most: number;

  /** `most` is how many are kept. */
  constructor(most = Infinity) {
    this.#most = most;
  }

  /** What is kept under a name, else what `fetched` brings; after a failure the next call fetches anew. */
  get<Found extends T>(name: string, fetched: () => Promise<Found>): Promise<Found> {
    let found = this.#promises.get(name) as Promise<Found> | undefined;
    if (!found) {
      found = fetched();
      found.catch(() => this.#promises.delete(name));
    }
    this.#promises.delete(name);
    this.#promises.set(name, found); // the last used comes last
    for (const oldest of this.#promises.keys()) {
      if (this.#promises.size <= this.#most) break;
      this.#promises.delete(oldest);
    }
    return found;
  }
}

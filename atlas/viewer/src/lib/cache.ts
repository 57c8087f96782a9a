/** Files that are fetched once and kept while they are among the last used ones. */

export class PromiseCache<T> {
  readonly #promises = new Map<string, Promise<T>>();
  readonly #capacity: number;

  /** `most` is how many are kept. */
  constructor(capacity = Infinity) {
    this.#capacity = capacity;
  }

  /** What is kept under a name, else what `fetched` brings; after a failure the next call fetches anew. */
  get<Item extends T>(name: string, load: () => Promise<Item>): Promise<Item> {
    let promise = this.#promises.get(name) as Promise<Item> | undefined;
    if (!promise) {
      promise = load();
      promise.catch(() => this.#promises.delete(name));
    }
    this.#promises.delete(name);
    this.#promises.set(name, promise); // the last used comes last
    for (const oldest of this.#promises.keys()) {
      if (this.#promises.size <= this.#capacity) break;
      this.#promises.delete(oldest);
    }
    return promise;
  }
}

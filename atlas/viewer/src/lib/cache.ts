/**
 * A cache of promises with a limit on its entries: the least recently used one is dropped first. Written here, as it is
 * a dozen lines, for which lru-cache would be one more dependency of the page.
 */

export class PromiseCache<T> {
  readonly #promises = new Map<string, Promise<T>>();
  readonly #capacity: number;

  /** `capacity` is the largest number of entries. */
  constructor(capacity = Infinity) {
    this.#capacity = capacity;
  }

  /** The entry of a name, else what `load` returns; a failure is not stored, so the next call loads again. */
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

/** What the icons and the groups of one picture read of its state: each reads no more than its own interface. */

import type { ExplainedLayer } from '../lib/api';
import type { Atlas, AtlasMap } from '../lib/atlas';

/** What lies over the picture. */
export type PictureOverlay = 'nothing' | 'icons' | 'effect';

/** What the groups read. */
export interface PictureState {
  /** The picture; null before there is one. */
  readonly picture: { blob: Blob } | null;
  /** The shown layer as the server has explained it; null until then. */
  readonly explainedLayer: ExplainedLayer | null;
}

/** What the icons read besides. */
export interface IconState extends PictureState {
  readonly overlay: PictureOverlay;
  /** The map of the whole layer, from whose cells the stand-ins come. */
  readonly wholeMap: AtlasMap;
  readonly pageState: { readonly atlas: Atlas };
}

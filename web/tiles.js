/* A picture of any size through the network, in tiles that fade into each other. */

import { toPlanes } from "./pixels.js";

export const TILE = 512;
export const OVERLAP = 64;

/** First pixel of each tile along one axis; neighbours share at least `overlap` pixels and the last
 * one ends at the edge. */
export function tileStarts(length, tile = TILE, overlap = OVERLAP) {
  if (length <= tile) return [0];
  const starts = [];
  for (let start = 0; start < length - tile; start += tile - overlap) starts.push(start);
  return [...starts, length - tile];
}

/** Share of the new tile at each pixel of the overlap: a raised cosine. */
const SHARES = Float32Array.from(
  { length: OVERLAP },
  (_, i) => Math.sin((Math.PI / 2) * ((i + 0.5) / OVERLAP)) ** 2,
);
const shareAt = (start, offset) => (start > 0 && offset < OVERLAP ? SHARES[offset] : 1);

/** RGBA bytes -> sharpened RGBA bytes, alpha as it is. `run(planes, width, height)` restores a
 * tile. `progress(share)` is called after each; where it returns false the work ends with null. */
export async function sharpenInTiles(rgba, width, height, run, progress) {
  const result = new Uint8ClampedArray(rgba);
  const band = new Float32Array(3 * Math.min(TILE, height) * width); // one row of tiles
  const rows = tileStarts(height);
  const columns = tileStarts(width);
  let done = 0;
  for (const top of rows) {
    const h = Math.min(TILE, height);
    for (const left of columns) {
      const w = Math.min(TILE, width);
      const planes = new Float32Array(3 * w * h);
      toPlanes(cut(rgba, width, left, top, w, h), w, h, 1, planes);
      pasteColumns(band, width, await run(planes, w, h), left, w, h);
      if (!progress(++done / (rows.length * columns.length))) return null;
    }
    pasteRows(result, band, width, top, h);
  }
  return result;
}

function cut(rgba, stride, left, top, width, height) {
  const part = new Uint8ClampedArray(4 * width * height);
  for (let y = 0; y < height; y++) {
    const start = 4 * ((top + y) * stride + left);
    part.set(rgba.subarray(start, start + 4 * width), 4 * y * width);
  }
  return part;
}

/** Put a restored tile into the band, faded in over what its left neighbour put there. */
function pasteColumns(band, stride, restored, left, width, height) {
  for (let line = 0; line < 3 * height; line++) {
    for (let x = 0; x < width; x++) {
      const i = line * stride + left + x;
      band[i] += (restored[line * width + x] - band[i]) * shareAt(left, x);
    }
  }
}

/** Put the band into the result, faded in over the band above. */
function pasteRows(result, band, width, top, height) {
  for (let y = 0; y < height; y++) {
    const share = shareAt(top, y);
    for (let x = 0; x < width; x++) {
      const i = 4 * ((top + y) * width + x);
      for (let c = 0; c < 3; c++) {
        const value = 255 * band[(c * height + y) * width + x];
        result[i + c] = share === 1 ? value : result[i + c] + (value - result[i + c]) * share;
      }
    }
  }
}

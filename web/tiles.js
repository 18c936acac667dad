/* A picture of any size through the network, in tiles that fade into each other.
 *
 * The network weighs its channels by means over windows of 256 pixels, 128 apart. So tiles start at
 * multiples of 128, where their windows are those of the whole picture, and what lies so close to
 * a cut that its windows are cut too is taken from the neighbour. */

import { toPlanes } from "./pixels.js";

export const TILE = 1024;
export const OVERLAP = 256;
const EDGE = 96; // pixels of a tile next to a cut that are not used
const FADE = OVERLAP - 2 * EDGE; // pixels over which the new tile replaces the old one

/** First pixel of each tile along one axis; the last tile ends where the picture does. */
export function tileStarts(length) {
  const starts = [0];
  while (starts.at(-1) + TILE < length) starts.push(starts.at(-1) + TILE - OVERLAP);
  return starts;
}

/** Share of the new tile in its pixel number `offset`: 0, then a raised cosine, then 1. */
function shareAt(start, offset) {
  if (start === 0 || offset >= EDGE + FADE) return 1;
  if (offset < EDGE) return 0;
  return Math.sin((Math.PI / 2) * ((offset - EDGE + 0.5) / FADE)) ** 2;
}

/** RGBA bytes -> sharpened RGBA bytes, alpha as it is. `run(planes, width, height)` restores a
 * tile. `progress(share)` is called after each; where it returns false the work ends with null. */
export async function sharpenInTiles(rgba, width, height, run, progress) {
  const result = new Uint8ClampedArray(rgba);
  const band = new Float32Array(3 * Math.min(TILE, height) * width); // one row of tiles
  const rows = tileStarts(height);
  const columns = tileStarts(width);
  let done = 0;
  for (const top of rows) {
    const h = Math.min(TILE, height - top);
    for (const left of columns) {
      const w = Math.min(TILE, width - left);
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
  const shares = Float32Array.from({ length: width }, (_, x) => shareAt(left, x));
  for (let line = 0; line < 3 * height; line++) {
    for (let x = 0; x < width; x++) {
      const i = line * stride + left + x;
      band[i] += (restored[line * width + x] - band[i]) * shares[x];
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

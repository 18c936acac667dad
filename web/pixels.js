/* Pixels to what the network takes, and back: RGBA bytes <-> three planes of floats. */

/** Size at which the network computes a picture of `length` pixels: every `scale`-th, rounded up. */
export const reduced = (length, scale) => Math.ceil(length / scale);

/** RGBA bytes -> planes r, g, b in [0, 1], each of reduced height x reduced width. With `scale` 2
 * a value is the mean of 2 x 2 pixels; an odd last row or column stands for its missing neighbour. */
export function toPlanes(rgba, width, height, scale, planes) {
  const columns = reduced(width, scale);
  const rows = reduced(height, scale);
  const plane = columns * rows;
  const factor = 1 / (255 * scale * scale);
  for (let y = 0, i = 0; y < rows; y++) {
    const top = y * scale * width;
    const bottom = Math.min(y * scale + scale - 1, height - 1) * width;
    for (let x = 0; x < columns; x++, i++) {
      const right = Math.min(x * scale + scale - 1, width - 1);
      const a = 4 * (top + x * scale);
      if (scale === 1) {
        planes[i] = rgba[a] * factor;
        planes[plane + i] = rgba[a + 1] * factor;
        planes[2 * plane + i] = rgba[a + 2] * factor;
        continue;
      }
      const b = 4 * (top + right);
      const c = 4 * (bottom + x * scale);
      const d = 4 * (bottom + right);
      planes[i] = (rgba[a] + rgba[b] + rgba[c] + rgba[d]) * factor;
      planes[plane + i] = (rgba[a + 1] + rgba[b + 1] + rgba[c + 1] + rgba[d + 1]) * factor;
      planes[2 * plane + i] = (rgba[a + 2] + rgba[b + 2] + rgba[c + 2] + rgba[d + 2]) * factor;
    }
  }
}

/** result = rgba + strength * residual, rounded and limited to bytes, alpha as it is. A residual at
 * half size (`scale` 2) is enlarged bilinearly. */
export function addResidual(rgba, residual, width, height, scale, strength, result) {
  const columns = reduced(width, scale);
  const rows = reduced(height, scale);
  const plane = columns * rows;
  const amount = 255 * strength;
  const line = new Float32Array(3 * columns); // this row of the residual, enlarged vertically
  for (let y = 0; y < height; y++) {
    const near = scale === 1 ? y : y >> 1;
    const far = scale === 1 ? y : Math.min(Math.max(near + (y & 1 ? 1 : -1), 0), rows - 1);
    for (let c = 0; c < 3; c++) {
      const a = c * plane + near * columns;
      const b = c * plane + far * columns;
      for (let x = 0; x < columns; x++) {
        line[c * columns + x] = amount * (0.75 * residual[a + x] + 0.25 * residual[b + x]);
      }
    }
    for (let x = 0, i = 4 * y * width; x < width; x++, i += 4) {
      const here = scale === 1 ? x : x >> 1;
      const beside = scale === 1 ? x : Math.min(Math.max(here + (x & 1 ? 1 : -1), 0), columns - 1);
      // a Uint8ClampedArray rounds and limits by itself
      result[i] = rgba[i] + 0.75 * line[here] + 0.25 * line[beside];
      const g = columns;
      result[i + 1] = rgba[i + 1] + 0.75 * line[g + here] + 0.25 * line[g + beside];
      const b = 2 * columns;
      result[i + 2] = rgba[i + 2] + 0.75 * line[b + here] + 0.25 * line[b + beside];
      result[i + 3] = rgba[i + 3];
    }
  }
}

/* Less flicker: a moving average of the residual, over still areas only.
 *
 * The residual is what the network adds to a picture. On a still scene the sensor's noise makes it
 * differ from frame to frame, which flickers. So each pixel's residual is averaged with its own past
 * for as long as the picture there does not change, and starts anew where it does.
 *
 * THE RULE. This is the one place that states it; `sharpening/temporal_filter.py` does the same in
 * numpy, and a test compares the two bit by bit. All of it is at the size at which the network
 * computes (half the picture's size by default).
 *
 * State, one number per pixel, all 0 before the first frame and whenever the size changes:
 *     reference    average of the luma            mean_r, mean_g, mean_b    average of the residual
 *     count        how many frames these averages stand for
 * For each frame with picture r, g, b in [0, 1] and residual res_r, res_g, res_b:
 *     luma       = 0.25 * r + 0.5 * g + 0.25 * b
 *     change     = |luma - reference|
 *     row        = change[left] + change[here] + change[right]
 *     difference = (row[above] + row[here] + row[below]) / 9         edges repeat their own pixel
 *     still      = (MOVING - difference) / (MOVING - STILL), limited to [0, 1]
 *     count      = 1 + still * min(count, LONGEST - 1)
 *     reference  = reference + (luma - reference) / count
 *     mean_x     = mean_x + (res_x - mean_x) / count                 for x = r, g, b
 * The result is mean_x. Where something moves, still = 0, so count = 1 and the residual passes
 * unchanged: no ghost. Where nothing moves, it becomes the average of the last LONGEST frames or so.
 *
 * Exact arithmetic: every quantity on the left is stored as float32; each line is computed in
 * float64 from the stored values, in the order written. The constants are float64.
 */

export const STILL = 4 / 255;
export const MOVING = 8 / 255;
export const LONGEST = 16;

export class TemporalFilter {
  constructor() {
    this.reset(0, 0);
  }

  /** Forget the past; the next frames have this size. */
  reset(width, height) {
    this.width = width;
    this.height = height;
    const pixels = width * height;
    this.reference = new Float32Array(pixels);
    this.mean = new Float32Array(3 * pixels);
    this.count = new Float32Array(pixels);
    this.luma = new Float32Array(pixels);
    this.change = new Float32Array(pixels);
    this.row = new Float32Array(pixels);
  }

  /** Average `residual` with its past. Both arrays hold three planes of height x width: the picture
   * in [0, 1] and the residual. Returns the averaged residual, valid until the next call. */
  apply(picture, residual, width, height) {
    if (width !== this.width || height !== this.height) this.reset(width, height);
    this.#measureChange(picture);
    this.#average(residual);
    return this.mean;
  }

  #measureChange(picture) {
    const { width, height, luma, change, row, reference } = this;
    const pixels = width * height;
    for (let i = 0; i < pixels; i++) {
      luma[i] = 0.25 * picture[i] + 0.5 * picture[pixels + i] + 0.25 * picture[2 * pixels + i];
      change[i] = Math.abs(luma[i] - reference[i]);
    }
    for (let y = 0; y < height; y++) {
      const first = y * width;
      const last = first + width - 1;
      for (let i = first; i <= last; i++) {
        row[i] = change[i > first ? i - 1 : i] + change[i] + change[i < last ? i + 1 : i];
      }
    }
  }

  #average(residual) {
    const { width, height, luma, row, reference, mean, count } = this;
    const pixels = width * height;
    for (let y = 0; y < height; y++) {
      const above = y > 0 ? -width : 0;
      const below = y < height - 1 ? width : 0;
      for (let i = y * width; i < (y + 1) * width; i++) {
        const difference = Math.fround((row[i + above] + row[i] + row[i + below]) / 9);
        const share = (MOVING - difference) / (MOVING - STILL);
        const still = Math.fround(share < 0 ? 0 : share > 1 ? 1 : share);
        count[i] = 1 + still * Math.min(count[i], LONGEST - 1);
        const frames = count[i];
        reference[i] += (luma[i] - reference[i]) / frames;
        for (let j = i; j < 3 * pixels; j += pixels) mean[j] += (residual[j] - mean[j]) / frames;
      }
    }
  }
}

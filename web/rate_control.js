/* How much work to do: the most that this device carries at 12 frames a second or more.
 *
 * Down a level as soon as the median frame takes longer than that. Up again only if the level above
 * would, by its share of the work, still reach a quarter more, and only after a while; each time
 * that a step up did not hold, the while doubles. So it settles instead of swinging. */

/** From most to least work. `scale`: the network computes every scale-th pixel; `size`: share of
 * the camera's width and height that is shown; `work`: relative to the first. */
export const LEVELS = [
  { name: "full size", scale: 1, size: 1, work: 1 },
  { name: "half size", scale: 2, size: 1, work: 1 / 4 },
  { name: "smaller picture", scale: 2, size: 2 / 3, work: 1 / 9 },
  { name: "off", scale: 0, size: 1, work: 0 },
];
export const OFF = LEVELS.length - 1;
export const LOWEST_RATE = 12; // frames a second
const MARGIN = 1.25; // a step up must promise this much more than LOWEST_RATE
const WINDOW = 2000; // ms over which the median is taken
const LEAST_FRAMES = 5;
const HOLD = 15000; // ms; a step up that lasts longer was right
const PATIENCE = [4000, 60000]; // ms to wait for a step up: first and longest

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

export class RateControl {
  constructor(level = 1) {
    this.patience = PATIENCE[0];
    this.raised = -Infinity; // when the last step up was made
    this.#enter(level, 0);
  }

  #enter(level, now) {
    this.level = level;
    this.times = []; // [when, milliseconds] of the frames in the window
    this.frames = 0;
    this.since = now; // since when a step up is possible
  }

  /** Note that a frame was done at `now` (ms) and took `milliseconds` -> whether the level changed. */
  frame(now, milliseconds) {
    if (this.level === OFF) return now - this.since > this.patience && this.#up(now);
    if (this.frames++ === 0) {
      this.since = now; // the first frame of a level also allocates: it does not count
      return false;
    }
    this.times.push([now, milliseconds]);
    while (this.times.length > LEAST_FRAMES && this.times[0][0] < now - WINDOW) this.times.shift();
    if (this.times.length < LEAST_FRAMES) return false;
    const typical = median(this.times.map(([, each]) => each));
    if (1000 / typical < LOWEST_RATE) return this.#down(now);
    const { work } = LEVELS[this.level];
    const above = this.level > 0 && (typical * LEVELS[this.level - 1].work) / work;
    if (!above || 1000 / above < LOWEST_RATE * MARGIN) this.since = now;
    return now - this.since > this.patience && this.#up(now);
  }

  #down(now) {
    if (now - this.raised < HOLD) this.patience = Math.min(2 * this.patience, PATIENCE[1]);
    this.#enter(this.level + 1, now);
    return true;
  }

  #up(now) {
    this.raised = now;
    this.#enter(this.level - 1, now);
    return true;
  }
}

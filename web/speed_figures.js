/* Frames a second and latency, as the page shows them. */

const WINDOW = 2000; // ms

export class SpeedFigures {
  constructor() {
    this.size = "";
    this.work = null; // how much is sharpened; null: nothing
    this.reset();
  }

  reset() {
    this.frames = []; // [when shown, latency] in ms, of the last two seconds
  }

  /** Note that a frame captured at `captured` was shown at `now`. */
  frame(now, captured) {
    this.frames.push([now, now - captured]);
    while (this.frames[0][0] < now - WINDOW) this.frames.shift();
  }

  get rate() {
    const { frames } = this;
    const span = frames.length > 1 ? frames.at(-1)[0] - frames[0][0] : 0;
    return span ? (1000 * (frames.length - 1)) / span : 0;
  }

  /** Median latency, ms. */
  get latency() {
    const latencies = this.frames.map(([, latency]) => latency).sort((a, b) => a - b);
    return latencies[latencies.length >> 1] ?? 0;
  }

  text(kind, backend) {
    const parts = [];
    if (kind === "camera" || kind === "video") {
      parts.push(`${this.rate.toFixed(0)} frames/s`, `${this.latency.toFixed(0)} ms`);
    }
    if (kind !== "none") parts.push(this.size, this.work ?? "not sharpened");
    parts.push(backend || "nothing computes");
    return parts.join(" · ");
  }
}

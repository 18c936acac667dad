/* From a playing video, always the newest frame: one is under way at most, none waits in a queue. */

const grab = (video) => ("VideoFrame" in self ? new VideoFrame(video) : createImageBitmap(video));

export class NewestFrame {
  /** `send(frame, captured)` takes each frame; call `done()` when it has been dealt with. */
  constructor(video, send) {
    this.video = video;
    this.send = send;
    this.busy = false;
    this.newest = null; // when the newest frame not yet sent was captured
    this.listening = null;
  }

  start() {
    this.stop();
    const next = () => {
      this.listening = this.video.requestVideoFrameCallback((now, { captureTime }) => {
        next();
        this.newest = captureTime ?? now;
        this.#sendIfIdle();
      });
    };
    next();
  }

  stop() {
    if (this.listening !== null) this.video.cancelVideoFrameCallback(this.listening);
    this.listening = null;
    this.newest = null;
  }

  done() {
    this.busy = false;
    this.#sendIfIdle();
  }

  async #sendIfIdle() {
    if (this.busy || this.newest === null) return;
    this.busy = true;
    const captured = this.newest;
    this.newest = null;
    try {
      const frame = await grab(this.video);
      if (this.listening !== null) return this.send(frame, captured);
      frame.close(); // it was stopped meanwhile
      this.busy = false;
    } catch {
      this.busy = false; // the video has no frame to give: the next callback tries again
    }
  }
}

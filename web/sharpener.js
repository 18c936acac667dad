/* The page's side of the worker: starts it on a fresh canvas, and again after it has failed. */

export class Sharpener extends EventTarget {
  /** `holder`: the element that gets the canvas. */
  constructor(holder) {
    super();
    this.holder = holder;
    this.settings = {};
  }

  /** Start, or start again, with "auto", "webgpu" or "wasm". */
  start(kind) {
    this.worker?.terminate();
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "The sharpened picture");
    canvas.width = 640;
    canvas.height = 360;
    this.holder.replaceChildren(canvas);
    this.canvas = canvas;
    this.worker = new Worker(new URL("sharpen_worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => this.#tell(data.type, data);
    this.worker.onerror = (event) => {
      event.preventDefault();
      this.#tell("problem", { kind: "worker", detail: event.message ?? "" });
    };
    const offscreen = canvas.transferControlToOffscreen();
    this.#post({ type: "start", canvas: offscreen, kind }, [offscreen]);
    this.set(this.settings);
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #post(message, transfer = []) {
    this.worker.postMessage(message, transfer);
  }

  set(values) {
    Object.assign(this.settings, values);
    this.#post({ type: "settings", values });
  }

  sendFrame(frame, captured) {
    this.#post({ type: "frame", frame, captured }, [frame]);
  }

  sendPicture(bitmap) {
    this.#post({ type: "picture", bitmap }, [bitmap]);
  }

  /** What is shown as an image file; answered by the event "file". */
  askForFile(mime) {
    this.#post({ type: "file", mime });
  }
}

/* The picture on the page: before, after, and how they are shown. Lives in the worker. */

export class Stage {
  /** `canvas`: the page's own, handed over to the worker. */
  constructor(canvas) {
    this.canvas = canvas;
    this.before = new OffscreenCanvas(1, 1);
    this.after = new OffscreenCanvas(1, 1);
    this.context = canvas.getContext("2d");
    this.beforeContext = this.before.getContext("2d", { willReadFrequently: true });
    this.afterContext = this.after.getContext("2d");
    this.sharp = false; // whether "after" is shown
  }

  get width() {
    return this.before.width;
  }

  get height() {
    return this.before.height;
  }

  /** Draw `image` (a frame or a picture) as the new "before", at this size -> whether that differs
   * from the size so far. */
  draw(image, width, height) {
    const changed = width !== this.width || height !== this.height;
    if (changed) {
      for (const each of [this.canvas, this.before, this.after]) {
        each.width = width;
        each.height = height;
      }
    }
    this.beforeContext.clearRect(0, 0, width, height);
    this.beforeContext.drawImage(image, 0, 0, width, height);
    return changed;
  }

  /** RGBA bytes of "before". */
  read() {
    return this.beforeContext.getImageData(0, 0, this.width, this.height).data;
  }

  /** Set "after" to these RGBA bytes. */
  write(rgba) {
    this.afterContext.putImageData(new ImageData(rgba, this.width, this.height), 0, 0);
  }

  /** Show "after" if `sharp`, with "before" left of the divider at `split` (0 to 1, or null). */
  show(sharp, split, mirror) {
    this.sharp = sharp;
    const { context, width, height } = this;
    context.setTransform(mirror ? -1 : 1, 0, 0, 1, mirror ? width : 0, 0);
    context.clearRect(0, 0, width, height);
    context.drawImage(sharp ? this.after : this.before, 0, 0);
    const shown = sharp && split !== null ? Math.round(split * width) : 0;
    if (shown === 0) return;
    const left = mirror ? width - shown : 0;
    context.clearRect(left, 0, shown, height);
    context.drawImage(this.before, left, 0, shown, height, left, 0, shown, height);
  }

  /** What is shown as an image file, without the divider, mirrored if `mirror`. */
  async file(mirror, type) {
    const source = this.sharp ? this.after : this.before;
    if (!mirror) return source.convertToBlob({ type, quality: 0.95 });
    const turned = new OffscreenCanvas(this.width, this.height);
    const context = turned.getContext("2d");
    context.setTransform(-1, 0, 0, 1, this.width, 0);
    context.drawImage(source, 0, 0);
    return turned.convertToBlob({ type, quality: 0.95 });
  }
}

/* The worker: takes frames and pictures, sharpens them, draws them on the page's canvas.
 *
 * Messages in:  start {canvas, kind}, settings {...}, frame {frame, captured}, picture {bitmap},
 *               file {type}
 * Messages out: ready {name, manifest}, problem {kind, detail}, drawn {captured, ...},
 *               level {level}, progress {share}, pictured {}, file {blob}
 * Every frame is answered by `drawn`, whatever happens, so that the page can send the next one. */

import { hasGpu, startBackend } from "./backend.js";
import { readManifest } from "./models.js";
import { addResidual, reduced, toPlanes } from "./pixels.js";
import { LEVELS, OFF, RateControl } from "./rate_control.js";
import { Stage } from "./stage.js";
import { TemporalFilter } from "./temporal_filter.js";
import { sharpenInTiles } from "./tiles.js";

const base = new URL(".", import.meta.url);
const settings = {
  on: true,
  strength: 1,
  split: null, // where the divider stands, 0 to 1
  mirror: false,
  work: "auto", // or "full", "half"
  height: 360, // most rows of a frame that are computed and shown
};
const filter = new TemporalFilter();
const say = (type, content = {}) => postMessage({ type, ...content });

let stage; // set by the first message, "start"
let starting = null; // a promise while the model loads
let backend = null; // null while nothing can compute
let control = new RateControl();
let buffers = { planes: new Float32Array(0), result: new Uint8ClampedArray(0) };
let picture = null; // {before, after} in RGBA bytes while a still picture is shown
let pictureNumber = 0;

// --- starting, and what to do when the back end fails ---------------------------------------------

async function start({ canvas, kind }) {
  stage = new Stage(canvas);
  const first = kind === "auto" ? ((await hasGpu()) ? "webgpu" : "wasm") : kind;
  try {
    await useBackend(first, await readManifest(base));
  } catch (error) {
    say("problem", { kind: "model", detail: error.message });
  }
}

async function useBackend(kind, manifest) {
  try {
    backend = await startBackend(kind, base, manifest, () => fallBack("gpu-lost", manifest));
    control = new RateControl();
    say("ready", { name: backend.name, manifest });
  } catch (error) {
    if (kind === "wasm") throw error;
    await fallBack("no-gpu", manifest, error.message);
  }
}

/** Go on with WebAssembly after the GPU failed; the plain picture is shown meanwhile. */
async function fallBack(problem, manifest, detail = "") {
  backend = null;
  say("problem", { kind: problem, detail });
  await useBackend("wasm", manifest).catch((error) => {
    say("problem", { kind: "model", detail: error.message });
  });
}

// --- frames ---------------------------------------------------------------------------------------

const level = () => ({ full: LEVELS[0], half: LEVELS[1] })[settings.work] ?? LEVELS[control.level];

/** The size to show a frame at: no more rows than set, and less where the level says so. */
function frameSize(frame, { size }) {
  const width = frame.displayWidth ?? frame.width;
  const height = frame.displayHeight ?? frame.height;
  const factor = Math.min(1, settings.height / Math.min(width, height)) * size;
  return [Math.max(1, Math.round(width * factor)), Math.max(1, Math.round(height * factor))];
}

async function showFrame({ frame, captured }) {
  const begun = performance.now();
  const { name, scale, size } = level();
  const sharp = Boolean(backend) && settings.on && scale > 0;
  try {
    picture = null;
    stage.draw(frame, ...frameSize(frame, { size }));
    if (sharp) await sharpenStage(scale);
    stage.show(sharp, settings.split, settings.mirror);
  } catch (error) {
    stage.show(false, null, settings.mirror);
    if (backend) say("problem", { kind: "compute", detail: error.message });
    if (backend) backend = null;
  } finally {
    frame.close();
  }
  const now = performance.now();
  adaptTo(now, now - begun, sharp);
  const { width, height } = stage;
  say("drawn", { captured, width, height, work: sharp && backend ? name : null });
}

/** "after" = "before" + strength * averaged residual. */
async function sharpenStage(scale) {
  const { width, height } = stage;
  const rgba = stage.read();
  const columns = reduced(width, scale);
  const rows = reduced(height, scale);
  if (buffers.planes.length !== 3 * columns * rows) {
    buffers.planes = new Float32Array(3 * columns * rows);
  }
  if (buffers.result.length !== rgba.length) buffers.result = new Uint8ClampedArray(rgba.length);
  toPlanes(rgba, width, height, scale, buffers.planes);
  const residual = await backend.run(buffers.planes, columns, rows);
  for (let i = 0; i < residual.length; i++) residual[i] -= buffers.planes[i];
  const calm = filter.apply(buffers.planes, residual, columns, rows);
  addResidual(rgba, calm, width, height, scale, settings.strength, buffers.result);
  stage.write(buffers.result);
}

function adaptTo(now, milliseconds, sharp) {
  if (settings.work !== "auto" || !settings.on || !backend) return;
  if (!sharp && control.level !== OFF) return;
  if (control.frame(now, milliseconds)) say("level", { level: control.level });
}

// --- pictures -------------------------------------------------------------------------------------

async function showPicture({ bitmap }) {
  const number = ++pictureNumber;
  const { width, height } = bitmap;
  try {
    stage.draw(bitmap, width, height);
    bitmap.close();
    stage.show(false, null, settings.mirror);
    say("drawn", { width, height, work: null });
    picture = { before: stage.read(), after: null };
    await starting;
    if (!backend) return; // the page has been told why
    const after = await sharpenInTiles(picture.before, width, height, backend.run, (share) => {
      say("progress", { share });
      return number === pictureNumber && picture !== null;
    });
    if (!after) return; // another picture or the camera came
    picture.after = after;
    composePicture();
    say("pictured");
  } catch (error) {
    if (number === pictureNumber) say("problem", { kind: "picture", detail: error.message });
  }
}

function composePicture() {
  if (!picture?.after) return;
  const { before, after } = picture;
  const result = new Uint8ClampedArray(before.length);
  const share = settings.strength;
  for (let i = 0; i < before.length; i++) result[i] = before[i] + share * (after[i] - before[i]);
  stage.write(result);
  stage.show(settings.on, settings.split, settings.mirror);
}

// --- messages -------------------------------------------------------------------------------------

function change(values) {
  const { strength, work } = settings;
  Object.assign(settings, values);
  if (settings.work !== work) control = new RateControl();
  if (!picture?.after) return;
  if (settings.strength !== strength) composePicture();
  else stage.show(settings.on, settings.split, settings.mirror);
}

async function saveFile({ mime }) {
  const sharp = settings.on && (picture ? Boolean(picture.after) : Boolean(backend));
  say("file", { blob: await stage.file(sharp, settings.mirror, mime), picture: Boolean(picture) });
}

const handlers = {
  start: (data) => (starting = start(data)),
  settings: ({ values }) => change(values),
  frame: showFrame,
  picture: showPicture,
  file: saveFile,
};

self.onmessage = ({ data }) => handlers[data.type](data);

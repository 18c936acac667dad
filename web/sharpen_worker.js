/* The worker: takes frames and pictures, sharpens them, draws them on the page's canvas.
 *
 * Messages in:  start {canvas, kind}, settings {values}, frame {frame, captured}, picture {bitmap},
 *               file {mime}
 * Messages out: ready {name, manifest}, problem {kind, detail}, drawn {captured, width, height, work},
 *               level {level}, progress {share}, pictured {}, file {blob, picture}
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
let manifest = null;
let backend = null; // null while nothing can compute
let control = new RateControl();
let buffers = { planes: new Float32Array(0), result: new Uint8ClampedArray(0) };
let picture = null; // {before, after} in RGBA bytes while a still picture is shown
let turn = 0; // counts frames and pictures: what comes later ends the work on what came before

// --- starting, and what to do when the back end fails ---------------------------------------------

async function start({ canvas, kind }) {
  stage = new Stage(canvas);
  try {
    manifest = await readManifest(base);
    await useBackend(kind === "auto" ? ((await hasGpu()) ? "webgpu" : "wasm") : kind);
  } catch (error) {
    say("problem", { kind: "model", detail: error.message });
  }
}

async function useBackend(kind) {
  let started = null;
  try {
    const lost = () => started && leave(started, "gpu-lost");
    started = await startBackend(kind, base, manifest, lost);
  } catch (error) {
    if (kind === "wasm") throw error;
    say("problem", { kind: "no-gpu" });
    await useBackend("wasm");
    return;
  }
  backend = started;
  control = new RateControl();
  say("ready", { name: backend.name, manifest });
}

/** Stop using a back end that failed. After a GPU comes WebAssembly, after that nothing. */
async function leave(failed, problem, detail) {
  if (backend !== failed) return; // it was left before
  backend = null;
  say("problem", { kind: failed.kind === "webgpu" ? "gpu-lost" : problem, detail });
  if (failed.kind !== "webgpu") return;
  await useBackend("wasm").catch((error) => {
    say("problem", { kind: "model", detail: error.message });
  });
}

// --- frames ---------------------------------------------------------------------------------------

const level = () => ({ full: LEVELS[0], half: LEVELS[1] })[settings.work] ?? LEVELS[control.level];

/** The size to show a frame at: no more rows than set, and less where the level says so. */
function frameSize(frame, size) {
  const width = frame.displayWidth ?? frame.width;
  const height = frame.displayHeight ?? frame.height;
  const factor = Math.min(1, settings.height / Math.min(width, height)) * size;
  return [Math.max(1, Math.round(width * factor)), Math.max(1, Math.round(height * factor))];
}

async function showFrame({ frame, captured }) {
  const mine = ++turn;
  const begun = performance.now();
  const { name, scale, size } = level();
  let sharp = false;
  try {
    picture = null;
    stage.draw(frame, ...frameSize(frame, size));
    const wanted = Boolean(backend) && settings.on && scale > 0;
    sharp = wanted && (await sharpenStage(backend, scale, mine));
    if (mine === turn) stage.show(sharp, settings.split, settings.mirror);
    const now = performance.now();
    adaptTo(now, now - begun, sharp);
  } finally {
    frame.close();
    const { width, height } = stage;
    say("drawn", { captured, width, height, work: sharp ? name : null });
  }
}

/** "after" = "before" + strength * averaged residual -> whether that was done. */
async function sharpenStage(used, scale, mine) {
  const { width, height } = stage;
  const rgba = stage.read();
  const columns = reduced(width, scale);
  const rows = reduced(height, scale);
  if (buffers.planes.length !== 3 * columns * rows) {
    buffers.planes = new Float32Array(3 * columns * rows);
  }
  if (buffers.result.length !== rgba.length) buffers.result = new Uint8ClampedArray(rgba.length);
  toPlanes(rgba, width, height, scale, buffers.planes);
  const residual = await used.run(buffers.planes, columns, rows).catch((error) => {
    leave(used, "compute", error.message);
    return null;
  });
  if (!residual || mine !== turn) return false;
  for (let i = 0; i < residual.length; i++) residual[i] -= buffers.planes[i];
  const calm = filter.apply(buffers.planes, residual, columns, rows);
  addResidual(rgba, calm, width, height, scale, settings.strength, buffers.result);
  stage.write(buffers.result);
  return true;
}

function adaptTo(now, milliseconds, sharp) {
  if (settings.work !== "auto" || !settings.on || !backend) return;
  if (!sharp && control.level !== OFF) return;
  if (control.frame(now, milliseconds)) say("level", { level: control.level });
}

// --- pictures -------------------------------------------------------------------------------------

async function showPicture({ bitmap }) {
  const mine = ++turn;
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
      return mine === turn;
    });
    if (!after) return; // another picture or the camera came
    picture.after = after;
    composePicture();
    say("pictured");
  } catch (error) {
    if (mine === turn) say("problem", { kind: "picture", detail: error.message });
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
  say("file", { blob: await stage.file(settings.mirror, mime), picture: Boolean(picture) });
}

const handlers = {
  start: (data) => (starting = start(data)),
  settings: ({ values }) => change(values),
  frame: showFrame,
  picture: showPicture,
  file: saveFile,
};

self.onmessage = ({ data }) => handlers[data.type](data);

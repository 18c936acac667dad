/* The page: what each control does, and what is said when something does not work. */

import { closeCamera, listCameras, openCamera, watchCameras } from "./camera.js";
import { cameraMessage, NOTES, problemMessage } from "./messages.js";
import { NewestFrame } from "./newest_frame.js";
import { OFF } from "./rate_control.js";
import { Sharpener } from "./sharpener.js";
import { SpeedFigures } from "./speed_figures.js";

const MOST_PIXELS = 50e6; // of a picture: it is held in memory six times
const FORMATS = { "image/jpeg": "jpg", "image/png": "png", "image/webp": "webp" };

const at = (id) => document.getElementById(id);
const stage = at("stage");
const video = at("video");

const sharpener = new Sharpener(at("canvas-holder"));
const frames = new NewestFrame(video, (frame, captured) => sharpener.sendFrame(frame, captured));
const figures = new SpeedFigures();

/** What is shown: a camera, a video file, a picture, or nothing yet. */
const source = { kind: "none", stream: null, url: null, name: "", mime: "", gone: false };
let backendName = "";
let attempt = 0; // number of the source asked for last; what an earlier one brings is dropped

// --- messages -------------------------------------------------------------------------------------

function showMessage({ title, text, actions }) {
  at("message-title").textContent = title;
  at("message-text").textContent = text;
  for (const button of at("message").querySelectorAll("button")) {
    const { action } = button.dataset;
    button.hidden = action !== "close" && !actions.includes(action);
  }
  at("welcome").hidden = true;
  at("message").hidden = false;
  at("message").querySelector("button:not([hidden])").focus();
}

function closeMessage() {
  at("message").hidden = true;
  at("welcome").hidden = source.kind !== "none";
}

let standingNote = ""; // shown while there is nothing newer to say
const note = (text) => (at("note").textContent = text || standingNote);

// --- sources --------------------------------------------------------------------------------------

function leaveSource() {
  attempt++;
  frames.stop();
  closeCamera(source.stream);
  if (source.url) URL.revokeObjectURL(source.url);
  video.srcObject = null;
  video.removeAttribute("src");
  Object.assign(source, { kind: "none", stream: null, url: null, name: "", mime: "", gone: false });
  at("progress").hidden = true;
  figures.reset();
  note("");
}

function showSource(kind, mirrored) {
  source.kind = kind;
  setMirror(mirrored);
  setPressed("compare", at("compare").getAttribute("aria-pressed") === "true");
  at("save").disabled = false;
  at("save").firstChild.data = kind === "picture" ? "Save the picture " : "Save a snapshot ";
  at("camera-button").textContent = kind === "camera" ? "Turn off the camera" : "Turn on the camera";
  closeMessage();
}

async function startCamera() {
  leaveSource();
  const mine = attempt;
  try {
    const stream = await openCamera(at("camera").value, Number(at("size").value));
    if (mine !== attempt) return closeCamera(stream);
    source.stream = stream;
  } catch (error) {
    if (mine !== attempt) return;
    showSource("none", false);
    showMessage(cameraMessage(error));
    return;
  }
  const [track] = source.stream.getVideoTracks();
  track.addEventListener("ended", () => {
    source.gone = true;
    showMessage(problemMessage("unplugged"));
  });
  video.srcObject = source.stream;
  showSource("camera", track.getSettings().facingMode !== "environment");
  frames.start();
  await video.play().catch(() => {}); // a later source interrupts it
  await refreshCameras(track.getSettings().deviceId);
}

function stopCamera() {
  leaveSource();
  showSource("none", false);
  at("save").disabled = true;
}

async function refreshCameras(chosen = at("camera").value) {
  const cameras = await listCameras();
  const options = cameras.map(({ id, name }) => new Option(name, id, false, id === chosen));
  at("camera").replaceChildren(...(options.length ? options : [new Option("Default camera", "")]));
}

watchCameras(async () => {
  const before = at("camera").value;
  await refreshCameras();
  const back = [...at("camera").options].some(({ value }) => value === before);
  if (source.gone && back) await startCamera();
});

async function openFile(file) {
  leaveSource();
  const mine = attempt;
  showSource("none", false);
  Object.assign(source, { name: file.name, mime: file.type });
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => null);
  if (mine !== attempt) bitmap?.close();
  else if (bitmap) openPicture(bitmap);
  else await openVideo(file);
}

function openPicture(bitmap) {
  if (bitmap.width * bitmap.height > MOST_PIXELS) {
    showMessage(problemMessage("too-large"));
    return;
  }
  showSource("picture", false);
  at("progress").value = 0;
  at("progress").hidden = false;
  setPressed("compare", true);
  sharpener.sendPicture(bitmap);
}

async function openVideo(file) {
  source.url = URL.createObjectURL(file);
  video.src = source.url;
  video.loop = true;
  const mine = attempt;
  try {
    await video.play();
    if (!video.videoWidth) throw new Error("no pictures in it");
  } catch {
    if (mine !== attempt) return;
    leaveSource();
    showMessage(problemMessage("unreadable"));
    return;
  }
  showSource("video", false);
  frames.start();
}

// --- what the worker tells ------------------------------------------------------------------------

const on = (type, handler) => sharpener.addEventListener(type, ({ detail }) => handler(detail));

on("ready", ({ name, manifest }) => {
  backendName = name;
  at("model").textContent = `Model: ${manifest.checkpoint}.`;
  standingNote = self.crossOriginIsolated ? "" : NOTES["one-thread"];
  if (!at("note").textContent) note("");
  showFigures();
});

on("drawn", ({ captured, width, height, work }) => {
  frames.done();
  stage.style.setProperty("--ratio", `${width} / ${height}`);
  figures.size = `${width} × ${height}`;
  figures.work = work;
  if (captured !== undefined) figures.frame(performance.now(), captured);
});

on("level", ({ level }) => note(level === OFF ? NOTES.off : ""));

on("problem", ({ kind, detail }) => {
  if (kind in NOTES) note(NOTES[kind]);
  else showMessage(problemMessage(kind, detail));
  if (!(kind in NOTES)) backendName = "";
  at("progress").hidden = true;
});

on("progress", ({ share }) => (at("progress").value = share));

on("pictured", () => {
  at("progress").hidden = true;
  figures.work = "full size";
});

on("file", ({ blob, picture }) => {
  const wanted = picture && source.mime;
  if (wanted && blob.type !== wanted) note(NOTES.format);
  const stem = picture ? `${source.name.replace(/\.[^.]*$/, "")}_sharpened` : "snapshot";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${stem}.${FORMATS[blob.type] ?? "png"}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
});

function showFigures() {
  at("figures").textContent = figures.text(source.kind, backendName);
}
setInterval(showFigures, 500);

// --- controls -------------------------------------------------------------------------------------

const pressed = (id) => at(id).getAttribute("aria-pressed") === "true";

function setPressed(id, value) {
  at(id).setAttribute("aria-pressed", value);
  const compare = pressed("compare") && pressed("on");
  at("divider").hidden = !compare || source.kind === "none";
  const split = at("divider").hidden ? null : Number(at("split").value) / 100;
  sharpener.set({ on: pressed("on"), mirror: pressed("mirror"), split });
}

const setMirror = (value) => setPressed("mirror", value);

for (const id of ["on", "compare", "mirror"]) {
  at(id).addEventListener("click", () => setPressed(id, !pressed(id)));
}

at("split").addEventListener("input", ({ target }) => {
  at("divider").style.setProperty("--x", `${target.value}%`);
  target.setAttribute("aria-valuetext", `${target.value} % before`);
  sharpener.set({ split: Number(target.value) / 100 });
});

at("strength").addEventListener("input", ({ target }) => {
  at("strength-value").textContent = `${target.value} %`;
  sharpener.set({ strength: Number(target.value) / 100 });
});

at("work").addEventListener("change", ({ target }) => {
  note("");
  sharpener.set({ work: target.value });
});

at("size").addEventListener("change", ({ target }) => {
  sharpener.set({ height: Number(target.value) });
  if (source.kind === "camera") startCamera();
});

at("camera").addEventListener("change", () => source.kind === "camera" && startCamera());

at("backend").addEventListener("change", restart);

at("save").addEventListener("click", () => {
  sharpener.askForFile(source.kind === "picture" && source.mime in FORMATS ? source.mime : "image/png");
});

at("full-screen").addEventListener("click", () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else stage.requestFullscreen?.();
});

at("keys").addEventListener("change", ({ target }) => {
  document.body.classList.toggle("no-keys", !target.checked);
});

function restart() {
  closeMessage();
  backendName = "";
  sharpener.start(at("backend").value);
  frames.done();
}

const actions = {
  camera: () => (source.kind === "camera" && !source.gone ? stopCamera() : startCamera()),
  file: () => at("file").click(),
  restart,
  close: closeMessage,
};
for (const button of document.querySelectorAll("[data-action]")) {
  button.addEventListener("click", () => actions[button.dataset.action]());
}

at("file").addEventListener("change", ({ target }) => {
  if (target.files[0]) openFile(target.files[0]);
  target.value = "";
});

const KEYS = { s: "on", c: "compare", m: "mirror", p: "save", f: "full-screen" };
addEventListener("keydown", (event) => {
  const typing = event.target.matches("select, input:not([type=range]):not([type=checkbox])");
  if (!at("keys").checked || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const id = KEYS[event.key.toLowerCase()];
  if (id && !event.repeat) at(id).click();
});

// --- dropped files and hidden tabs ----------------------------------------------------------------

for (const type of ["dragenter", "dragover"]) {
  addEventListener(type, (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
}
for (const type of ["dragleave", "drop"]) {
  addEventListener(type, (event) => {
    event.preventDefault();
    if (type === "drop" || !event.relatedTarget) document.body.classList.remove("dropping");
  });
}
addEventListener("drop", ({ dataTransfer }) => {
  if (dataTransfer.files[0]) openFile(dataTransfer.files[0]);
});

document.addEventListener("visibilitychange", () => {
  if (!["camera", "video"].includes(source.kind)) return;
  figures.reset();
  note(document.hidden ? NOTES.hidden : NOTES.visible);
});

const asked = new URLSearchParams(location.search).get("backend");
if (["webgpu", "wasm"].includes(asked)) at("backend").value = asked;
sharpener.start(at("backend").value);

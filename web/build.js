/* Writes the page as a folder for any static host: `npm run build -- [--folder dist]`.
 *
 * Only what a browser asks for is in it. `_headers` holds the HTTP headers in the form that Netlify
 * and Cloudflare Pages read; other hosts need the same two lines in their own settings. Prints what
 * a first visit loads, compressed, with and without a GPU. */

import {
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

import { ISOLATION, POLICY } from "./headers.js";

const here = fileURLToPath(new URL(".", import.meta.url));
const { values: options } = parseArgs({
  options: { folder: { type: "string", default: join(here, "dist") } },
});
const target = resolve(options.folder);

const TOOLS = ["serve.js", "build.js", "headers.js"]; // these run in Node
const RUNTIME = {
  wasm: ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"],
  webgpu: ["ort.jspi.min.mjs", "ort-wasm-simd-threaded.jspi.mjs", "ort-wasm-simd-threaded.jspi.wasm"],
  "webgpu without JSPI": [
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
  ],
};

const page = readdirSync(here).filter(
  (name) => /\.(html|css|js|svg)$/.test(name) && !TOOLS.includes(name),
);
const vendor = "vendor/onnxruntime";
const models = JSON.parse(readFileSync(join(here, "models", "manifest.json"))).models;

if (existsSync(target) && !existsSync(join(target, "_headers")) && readdirSync(target).length) {
  console.error(`${target} holds something else than a built page: choose another --folder`);
  process.exit(1);
}
rmSync(target, { recursive: true, force: true });
mkdirSync(join(target, vendor), { recursive: true });
for (const name of [...page, "models"]) cpSync(join(here, name), join(target, name), { recursive: true });
const runtime = join(here, "node_modules", "onnxruntime-web");
for (const name of Object.values(RUNTIME).flat()) {
  cpSync(join(runtime, "dist", name), join(target, vendor, name));
}
const headers = Object.entries({ ...ISOLATION, ...POLICY }).map(([name, value]) => `  ${name}: ${value}`);
writeFileSync(join(target, "_headers"), `/*\n${headers.join("\n")}\n`);

const compressed = (name) => {
  const bytes = readFileSync(join(target, name));
  const brotli = brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 9 } });
  return { gzip: gzipSync(bytes, { level: 9 }).length, brotli: brotli.length };
};
const measured = new Map();
const megabytes = (names, way) => {
  for (const name of names) if (!measured.has(name)) measured.set(name, compressed(name));
  return names.reduce((sum, name) => sum + measured.get(name)[way], 0) / 1e6;
};
console.log(`${target}\n\nfirst visit, megabytes      gzip   brotli`);
const firstVisits = {};
for (const [kind, files] of Object.entries(RUNTIME)) {
  const model = `models/${models[kind === "wasm" ? "int8" : "fp16"].file}`;
  const names = [...page, "models/manifest.json", model, ...files.map((name) => `${vendor}/${name}`)];
  const [gzip, brotli] = ["gzip", "brotli"].map((way) => megabytes(names, way));
  console.log(`${kind.padEnd(24)} ${gzip.toFixed(2).padStart(7)}  ${brotli.toFixed(2).padStart(7)}`);
  firstVisits[kind] = { gzip, brotli };
}
const files = readdirSync(target, { recursive: true }).map((name) => statSync(join(target, name)));
const bytes = files.reduce((sum, file) => sum + (file.isFile() ? file.size : 0), 0);
console.log(JSON.stringify({ folder_megabytes: bytes / 1e6, first_visit_megabytes: firstVisits }));

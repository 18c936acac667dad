/* Serves the page: `npm start -- [--port 8321] [--host 127.0.0.1] [--folder DIR] [--no-isolation]`.
 *
 * It sends the two headers (COOP and COEP) without which a browser gives no threads to WebAssembly.
 * `--folder` serves a built copy; `--no-isolation` leaves the headers out, to see what happens. */

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { ISOLATION, POLICY } from "./headers.js";

const here = fileURLToPath(new URL(".", import.meta.url));
const RUNTIME = join("vendor", "onnxruntime") + sep;

const { values: options } = parseArgs({
  options: {
    port: { type: "string", default: "8321" },
    host: { type: "string", default: "127.0.0.1" },
    folder: { type: "string", default: here },
    "no-isolation": { type: "boolean", default: false },
  },
});
const folder = resolve(options.folder);

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
};

/** The file that a URL names, below the served folder; the runtime comes from node_modules unless
 * the folder is a built one. */
async function fileOf(url) {
  const path = normalize(decodeURIComponent(new URL(url, "http://host").pathname)).slice(1);
  const candidates = [join(folder, path.endsWith(sep) || !path ? join(path, "index.html") : path)];
  if (path.startsWith(RUNTIME)) {
    const name = path.slice(RUNTIME.length);
    candidates.push(join(here, "node_modules", "onnxruntime-web", "dist", name));
  }
  for (const candidate of candidates) {
    const found = await stat(candidate).catch(() => null);
    if (found?.isFile() && !path.startsWith("..")) return { name: candidate, size: found.size };
  }
  return null;
}

const server = createServer(async (request, response) => {
  const file = await fileOf(request.url).catch(() => null);
  const headers = {
    "Cache-Control": "no-cache",
    ...POLICY,
    ...(options["no-isolation"] ? {} : ISOLATION),
  };
  if (!file || !["GET", "HEAD"].includes(request.method)) {
    response.writeHead(404, { ...headers, "Content-Type": "text/plain" }).end("not found\n");
    return;
  }
  const type = TYPES[extname(file.name)] ?? "application/octet-stream";
  response.writeHead(200, { ...headers, "Content-Type": type, "Content-Length": file.size });
  if (request.method === "HEAD") response.end();
  else createReadStream(file.name).pipe(response);
});

server.on("error", (error) => {
  const busy = error.code === "EADDRINUSE";
  console.error(busy ? `port ${options.port} is in use: npm start -- --port 8322` : error.message);
  process.exitCode = 1;
});
server.listen(Number(options.port), options.host, () => {
  console.log(`http://${options.host}:${server.address().port}/`);
});

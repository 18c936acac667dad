/* The model files: what the manifest says, and whether a file is what the manifest says. */

/** An error with a sentence for people. */
export class ModelError extends Error {}

async function fetched(url) {
  const response = await fetch(url).catch(() => null);
  if (!response?.ok) {
    throw new ModelError(`The file ${nameOf(url)} cannot be loaded.`);
  }
  return response;
}

const nameOf = (url) => new URL(url).pathname.split("/").pop();

/** Read and check `models/manifest.json` below `base`. */
export async function readManifest(base) {
  const url = new URL("models/manifest.json", base);
  const manifest = await (await fetched(url)).json().catch(() => null);
  const fits = ({ file, sha256 } = {}) => typeof file === "string" && /^[0-9a-f]{64}$/.test(sha256);
  if (!["fp16", "int8"].every((name) => fits(manifest?.models?.[name]))) {
    throw new ModelError("models/manifest.json does not fit this page.");
  }
  return manifest;
}

/** The bytes of one model of the manifest, whole and unchanged, or a ModelError. */
export async function readModel(base, manifest, name) {
  const { file, sha256 } = manifest.models[name];
  const url = new URL(`models/${file}`, base);
  url.search = sha256.slice(0, 12); // a new model is never answered from an old cache
  const bytes = await (await fetched(url)).arrayBuffer();
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const found = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== sha256) throw new ModelError(`The model file ${file} is damaged.`);
  return new Uint8Array(bytes);
}

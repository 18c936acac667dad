/* What computes the network: WebGPU where there is a GPU, else WebAssembly.
 *
 * WebGPU takes the model with 16-bit weights (it computes in 32 bits), WebAssembly the INT8 one, in
 * as many threads as there are cores, up to four. ONNX Runtime's WebGL provider is not used: its
 * results were wrong (35 dB to PyTorch's). */

import { readModel } from "./models.js";

const MOST_THREADS = 4;

/** Whether there is a GPU; one that software imitates is slower than WebAssembly. */
export async function hasGpu() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(adapter) && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
}

/** Start `kind`, "webgpu" or "wasm" -> {kind, name, run}. `lost` is called if the GPU goes
 * away later. `precision`: "fp32", "fp16" or "int8", by default the one that suits the kind. */
export async function startBackend(kind, base, manifest, lost, precision) {
  const gpu = kind === "webgpu";
  const chosen = precision ?? (gpu ? "fp16" : "int8");
  const [ort, model] = await Promise.all([
    loadRuntime(gpu, base),
    readModel(base, manifest, chosen),
  ]);
  const session = await ort.InferenceSession.create(model, { executionProviders: [kind] });
  if (gpu) (await ort.env.webgpu.device).lost.then(lost);
  const threads = ort.env.wasm.numThreads;
  let last = Promise.resolve(); // one run at a time: WebGPU refuses a second
  const where = gpu ? "WebGPU" : `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
  return {
    kind,
    name: `${where}, ${chosen.toUpperCase()}`,
    /** Planes in [0, 1], three of height x width -> the restored planes, not limited. */
    run(planes, width, height) {
      const input = new ort.Tensor("float32", planes, [1, 3, height, width]);
      const next = () => session.run({ blurry: input });
      last = last.then(next, next);
      return last.then(({ restored }) => restored.data);
    },
  };
}

async function loadRuntime(gpu, base) {
  const folder = new URL("vendor/onnxruntime/", base).href;
  const suspends = "Suspending" in WebAssembly; // the smaller build needs it
  const name = gpu ? (suspends ? "ort.jspi.min.mjs" : "ort.webgpu.min.mjs") : "ort.wasm.min.mjs";
  const ort = await import(folder + name);
  ort.env.wasm.wasmPaths = folder;
  ort.env.wasm.numThreads =
    self.crossOriginIsolated && !gpu ? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS) : 1;
  ort.env.logLevel = "error";
  return ort;
}

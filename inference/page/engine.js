// The worker (painter.js) and what it is started from.

import { $, now, say } from "./state.js";

let worker;
const waiting = new Map();

/** @param {(share: number) => void} progress is told how much of a long task is done */
export function ask(task, values, transfer = [], progress = undefined) {
  const id = crypto.getRandomValues(new Uint32Array(1))[0];
  worker.postMessage({ id, task, values }, transfer);
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject, progress }));
}

export async function startWorker(backend) {
  worker?.terminate();
  worker = new Worker(now.assets.worker); // a classic one: from a local file a browser takes no module
  worker.addEventListener("message", ({ data: { id, result, error, refused, progress } }) => {
    if (progress !== undefined) return waiting.get(id).progress(progress);
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) resolve(result);
    else reject(Object.assign(new Error(error), { refused }));
  });
  worker.addEventListener("error", (event) => {
    for (const { reject } of waiting.values()) reject(new Error(event.message ?? "the worker cannot be loaded"));
    waiting.clear();
  });
  now.engine = await ask("start", { sources: now.assets.sources, backend });
  showEngine();
}

export function showEngine() {
  const { provider, threads, whyNot } = now.engine;
  $("backend").textContent = provider === "webgpu" ? "WebGPU" : `CPU, ${threads === 1 ? "1 thread" : `${threads} threads`}`;
  const headers = "the server does not send the headers that threads need (COOP and COEP)";
  const alone = threads === 1 && !self.crossOriginIsolated ? ` One thread only: ${headers}.` : "";
  $("why").textContent = provider === "webgpu" ? "" : `WebGPU: ${whyNot}.${alone}`;
}

export async function startWithoutGpu(error) {
  await startWorker("wasm");
  now.engine.whyNot = `it failed (${error.message})`;
  showEngine();
}

/** Where things are: inside this file (see inference/web.py), or beside it on the server. */
export async function findAssets() {
  const inside = document.getElementById("inside");
  if (inside) return assetsInside(JSON.parse(inside.textContent));
  const at = (path) => new URL(path, document.baseURI).href;
  const answer = await fetch(at("styles.json"));
  if (!answer.ok) throw new Error(`styles.json is missing here (${answer.status})`);
  // From a blob: address it has this page's security policy, whatever headers the server sends.
  const code = await fetch(at("worker.js"));
  return {
    worker: URL.createObjectURL(new Blob([await code.text()], { type: "text/javascript" })),
    sources: { webgpu: { module: at("ort/ort.webgpu.bundle.min.mjs") }, wasm: { module: at("ort/ort.wasm.bundle.min.mjs") } },
    styles: await answer.json(),
    read: async (path) => {
      const file = await fetch(at(path));
      if (!file.ok) throw new Error(`${path} is missing here (${file.status})`);
      return new Uint8Array(await file.arrayBuffer());
    },
  };
}

async function assetsInside({ worker, module, wasm, styles, files }) {
  const script = async (packed) => new Blob([await unpack(packed)], { type: "text/javascript" });
  return {
    worker: URL.createObjectURL(await script(worker)),
    // A module at a blob: address is refused to the worker of a local file; one at a data: address is not.
    sources: { wasm: { module: await dataAddress(await script(module)), wasm: await unpack(wasm) } },
    styles,
    read: (name) => unpack(files[name]),
  };
}

const dataAddress = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.addEventListener("load", () => resolve(reader.result));
  reader.addEventListener("error", () => reject(reader.error));
  reader.readAsDataURL(blob);
});

/** base64 of gzip -> bytes. */
async function unpack(text) {
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The files beside the page, and the worker (painter.js) that paints with them.

import { $, now, showProgress } from "./state.js";

let worker;
const waiting = new Map();

/** @param {(share: number) => void} progress is told how much of a long task is done */
export function ask(task, values, transfer = [], progress = undefined) {
  const id = crypto.getRandomValues(new Uint32Array(1))[0];
  worker.postMessage({ id, task, values }, transfer);
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject, progress }));
}

/** Start it with WebGPU where that is wanted and there, else with WebAssembly. */
export async function startWorker(backend) {
  worker?.terminate();
  const { runtimes, worker: path } = now.assets, alone = Boolean(now.assets.inside);
  const [gpu, whyNot] = backend === "wasm" ? [null, "not asked for"] : await findGpu(runtimes);
  // With JSPI, WebAssembly waits for the GPU by itself; without, its code has to be larger.
  const runtime = runtimes[!gpu ? "wasm" : "Suspending" in WebAssembly ? "jspi" : "asyncify"];
  const [code, wasm, module] = await Promise.all([
    read(path),
    read(runtime.wasm, showLoading),
    moduleAddress(runtime.module),
  ]);
  showLoading();
  // A classic worker, as from a local file a browser takes no module. From a blob: address it has this page's security policy,
  // whatever headers the server sends.
  worker = new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  worker.addEventListener("message", ({ data: { id, result, error, kind, progress } }) => {
    if (progress !== undefined) return waiting.get(id).progress(progress);
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) resolve(result);
    else reject(Object.assign(new Error(error), { kind, inWorker: true }));
  });
  worker.addEventListener("error", (event) => {
    for (const { reject } of waiting.values()) reject(Object.assign(new Error(event.message ?? "the worker cannot be loaded"), { inWorker: true }));
    waiting.clear();
  });
  const half = gpu?.features.has("shader-f16") ?? false;
  const threads = self.crossOriginIsolated && !alone ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;
  await ask("start", { module, wasm, onGpu: Boolean(gpu), half, threads }, [wasm.buffer]);
  now.engine = { provider: gpu ? "webgpu" : "wasm", whyNot, threads, half };
  showEngine();
}

async function findGpu(runtimes) {
  if (!runtimes.jspi) return [null, "not in this single file"];
  if (!navigator.gpu) return [null, "not in this browser"];
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  return adapter ? [adapter, ""] : [null, "no GPU that this browser may use"];
}

function showEngine() {
  const { provider, threads, whyNot } = now.engine;
  $("backend").textContent = provider === "webgpu" ? "WebGPU" : `CPU, ${threads === 1 ? "1 thread" : `${threads} threads`}`;
  const reason = now.assets.inside ? "a single file gets no more" : "the server does not send the headers that threads need (COOP and COEP)";
  const alone = threads === 1 && (now.assets.inside || !self.crossOriginIsolated) ? ` One thread only: ${reason}.` : "";
  const offline = now.whyNotOffline ? ` Not kept for when you are offline: ${now.whyNotOffline}.` : "";
  $("why").textContent = (provider === "webgpu" ? "" : `WebGPU: ${whyNot}.${alone}`) + offline;
}

export async function startWithoutGpu(error) {
  await startWorker("wasm");
  forgetSecond(); // it was in the worker that is gone
  now.engine.whyNot = `it failed (${error.message})`;
  showEngine();
}

/** No second style is open any more. */
export function forgetSecond() {
  $("second").value = "";
  $("mix").disabled = true;
}

// ---- files: beside the page on its server, or inside a single file (see web.py) ----

export function findAssets() {
  const assets = JSON.parse($("assets").textContent);
  if (!assets.worker) throw new Error("this is a part of its source; allaprima web serves the page");
  if (!assets.inside && location.protocol === "file:") {
    throw new Error("it was opened as a file, and browsers let a file read no others. Put the folder on a server, or make one file of it all: allaprima web --single-file");
  }
  return assets;
}

const absolute = (path) => new URL(path, document.baseURI).href;

/**
 * A file's bytes.
 * @param {(done: number, all: number) => void} report is told how many bytes have come; all is 0 where nobody knows
 */
export async function read(path, report = () => {}) {
  const { inside } = now.assets;
  if (inside) return unpacked(Uint8Array.from(atob(inside[path]), (character) => character.charCodeAt(0)));
  const answer = await fetch(absolute(path)).catch(() => {
    throw new Error(unreachable());
  });
  if (!answer.ok) throw new Error(`${path} is missing here (${answer.status})`);
  const all = answer.headers.has("Content-Encoding") ? 0 : Number(answer.headers.get("Content-Length"));
  let done = 0;
  const counted = new TransformStream({
    transform(part, controller) {
      report((done += part.length), all);
      controller.enqueue(part);
    },
  });
  return unpacked(await bytesOf(answer.body.pipeThrough(counted)));
}

/** A module to be imported: its address. */
export async function moduleAddress(path) {
  const script = await read(path); // which says why, where it cannot be had
  return now.assets.inside ? dataAddress(script) : absolute(path);
}

function unreachable() {
  if (!navigator.onLine) return "You are offline, and this is not on your device yet; it has to be loaded once.";
  if (/^(localhost|127\.|\[::1\])/.test(location.host)) return "The server does not answer; does allaprima web still run?";
  return "The server does not answer; try again in a while.";
}

function showLoading(done, all) {
  showProgress(done === undefined ? undefined : all ? done / all : null);
  const mega = (bytes) => (bytes / 1e6).toFixed(1);
  $("backend").textContent = done === undefined ? "Starting …" : `Loading ${mega(done)}${all ? ` of ${mega(all)}` : ""} MB …`;
}

/** A module at a blob: address is refused to the worker of a local file; one at a data: address is not. */
const dataAddress = (script) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.addEventListener("load", () => resolve(reader.result));
  reader.addEventListener("error", () => reject(reader.error));
  reader.readAsDataURL(new Blob([script], { type: "text/javascript" }));
});

/** gzip's content, where it is gzip: a server may have unpacked it. */
async function unpacked(bytes) {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  return bytesOf(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
}

async function bytesOf(stream) {
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The worker that paints: ONNX Runtime Web with one style. It gets pixels and gives pixels, and knows nothing of the page.

import { blank, levelSizes, paintLevels } from "./levels.js";
import { MARGINS, Refused, SIDES, measuringAndGiven, readContract } from "./onnx.js";
import { paintTiles } from "./tiles.js";

const LUMA = [0.299, 0.587, 0.114]; // Y of YIQ, as in the program's own luminance-only
// In the network at once; a larger picture is painted tile by tile. Some 200 MB with the realtime tier, 750 with another.
const WHOLE_PIXELS = { realtime: 1.5 * 2 ** 20, other: 1024 * 768 };
const BAND_ROWS = 256;
const JPEG_QUALITY = 0.95;

let ort, provider, half;
let session, contract, model; // the style that is open; `model` is its file
let tiling; // two more sessions of it, once they are needed: see onnx.js
let last; // the content painted last and its painting, to be mixed again with another strength or color
let progress = () => {}; // is told how many pixels were painted, of a picture that takes long
let cancelled = false;

class Cancelled extends Error {}

const TASKS = { start, open, paint, mix, save, cancel };

addEventListener("message", async ({ data: { id, task, values } }) => {
  try {
    const result = await TASKS[task](values, (share) => postMessage({ id, progress: share }));
    postMessage({ id, result }, result?.pixels ? [result.pixels.buffer] : []);
  } catch (error) {
    postMessage({ id, error: error?.message ?? String(error), refused: error instanceof Refused });
  }
});

/** Load ONNX Runtime: with WebGPU where it is wanted and there, else WebAssembly. */
async function start({ sources, backend }) {
  const [adapter, whyNot] = backend === "wasm" ? [null, "not asked for"] : await findAdapter(sources);
  provider = adapter ? "webgpu" : "wasm";
  const source = sources[provider];
  half = adapter?.features.has("shader-f16") ?? false;
  ort = await import(source.module);
  ort.env.logLevel = "error";
  if (source.wasm) ort.env.wasm.wasmBinary = source.wasm;
  // The page has a thread of its own, and so has this worker.
  const cores = navigator.hardwareConcurrency || 1;
  ort.env.wasm.numThreads = self.crossOriginIsolated && !source.wasm ? Math.min(cores, 8) : 1;
  return { provider, whyNot, threads: ort.env.wasm.numThreads };
}

async function findAdapter(sources) {
  if (!sources.webgpu) return [null, "not in this single file"];
  if (!navigator.gpu) return [null, "not in this browser"];
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  return adapter ? [adapter, ""] : [null, "no GPU that this browser may use"];
}

/** Open a style; the old one stays if the new one cannot be opened. */
async function open({ bytes }) {
  const opened = readContract(bytes);
  // fp16 needs a GPU that has it: without, WebGPU paints nothing and raises nothing. int8 is for CPUs.
  opened.onGpu = provider === "webgpu" && (opened.precision === "fp32" || (opened.precision === "fp16" && half));
  const fresh = await openSession(bytes, opened.onGpu);
  const old = [session, contract, model, tiling];
  [session, contract, model, tiling] = [fresh, opened, bytes, undefined];
  try {
    // A small picture first: a GPU's programs are made, and fail, when something is painted.
    await paintWhole(session, blank(16, 16));
  } catch (error) {
    [session, contract, model, tiling] = old;
    await fresh.release().catch(() => {});
    throw error;
  }
  last = undefined;
  for (const each of [old[0], old[3]?.measuring, old[3]?.given]) await each?.release().catch(() => {});
  return { contract };
}

function openSession(bytes, onGpu, options = {}) {
  return ort.InferenceSession.create(bytes, { executionProviders: [onGpu ? "webgpu" : "wasm"], logSeverityLevel: 3, ...options });
}

/**
 * Paint RGBA pixels, coarse to fine.
 * @param {{pixels: Uint8ClampedArray, width: number, height: number, strokes: number, strength: number, keepColor: number}} values
 */
async function paint(values) {
  const { pixels, width, height } = values;
  const began = performance.now();
  cancelled = false; // a late word about another picture
  const content = { pixels, width, height };
  last = { content, stylized: await paintLevels(content, values.strokes, paintPicture) };
  return { ...mix(values), ms: performance.now() - began };
}

/** The picture painted last, blended. */
function mix({ strength, keepColor }) {
  const { pixels, width, height } = last.content;
  const mixed = new Uint8ClampedArray(pixels.length);
  mixInto(mixed, pixels, last.stylized.pixels, strength, keepColor);
  return { pixels: mixed, width, height };
}

/** Strength 0 is the content; keepColor 1 takes only light and dark from the painting. `mixed` may be one of the two. */
function mixInto(mixed, content, stylized, strength, keepColor) {
  const [r, g, b] = LUMA;
  const ofStylized = strength * (1 - keepColor), ofContent = 1 - ofStylized, ofChange = strength * keepColor;
  for (let i = 0; i < content.length; i += 4) {
    const red = stylized[i] - content[i], green = stylized[i + 1] - content[i + 1], blue = stylized[i + 2] - content[i + 2];
    const change = ofChange * (r * red + g * green + b * blue); // of the luminance
    mixed[i] = ofContent * content[i] + ofStylized * stylized[i] + change;
    mixed[i + 1] = ofContent * content[i + 1] + ofStylized * stylized[i + 1] + change;
    mixed[i + 2] = ofContent * content[i + 2] + ofStylized * stylized[i + 2] + change;
    mixed[i + 3] = 255;
  }
}

/**
 * Paint a large picture and make a JPEG file of it.
 * @param {{picture: ImageBitmap, strokes: number, strength: number, keepColor: number}} values
 * @returns {Promise<{blob: Blob?}>} none where it was cancelled
 */
async function save({ picture, strokes, strength, keepColor }, report) {
  const { width, height } = picture;
  const all = levelSizes(height, width, strokes).reduce((sum, size) => sum + size[0] * size[1], 0);
  let done = 0;
  progress = (pixels) => report((done += pixels) / all);
  cancelled = false;
  try {
    const content = pixelsOf(picture);
    const stylized = await paintLevels(content, strokes, paintPicture);
    mixInto(stylized.pixels, content.pixels, stylized.pixels, strength, keepColor);
    return { blob: await jpeg(stylized) };
  } catch (error) {
    if (error instanceof Cancelled) return {};
    throw error;
  } finally {
    progress = () => {};
  }
}

function cancel() {
  cancelled = true;
}

/** In bands, as a canvas of the whole would be one more copy of it. */
function pixelsOf(picture) {
  const content = blank(picture.width, picture.height);
  const context = new OffscreenCanvas(picture.width, BAND_ROWS).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff"; // behind transparent pictures
  for (let y = 0; y < picture.height; y += BAND_ROWS) {
    context.fillRect(0, 0, picture.width, BAND_ROWS);
    context.drawImage(picture, 0, -y);
    const rows = Math.min(BAND_ROWS, picture.height - y);
    content.pixels.set(context.getImageData(0, 0, picture.width, rows).data, 4 * y * picture.width);
  }
  picture.close();
  return content;
}

function jpeg({ pixels, width, height }) {
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(new ImageData(pixels, width, height), 0, 0);
  return canvas.convertToBlob({ type: "image/jpeg", quality: JPEG_QUALITY });
}

/** What the network makes of a picture, {pixels: RGBA, width, height}. */
async function paintPicture(picture) {
  const most = WHOLE_PIXELS[contract.tier] ?? WHOLE_PIXELS.other;
  if (picture.width * picture.height > most) {
    const paint = (tile, statistics) => paintWhole(tiling.given, tile, statistics);
    return paintTiles(picture, most, contract.stride, { measure: statisticsOf, paint, painted });
  }
  const painting = await paintWhole(session, picture);
  await painted(picture.width * picture.height);
  return painting;
}

/** Tell how far it is, and hear whether to go on. */
async function painted(pixels) {
  progress(pixels);
  await new Promise((resolve) => setTimeout(resolve)); // a message may have come
  if (cancelled) throw new Cancelled();
}

async function statisticsOf(squares, margins) {
  tiling ??= await openTiling();
  const feeds = { [MARGINS]: margins, [SIDES]: [squares[0].height, squares[0].width] };
  for (const name in feeds) feeds[name] = new ort.Tensor("int64", BigInt64Array.from(feeds[name], BigInt), [2]);
  return tiling.measuring.run({ [session.inputNames[0]]: tensorOf(squares), ...feeds }, tiling.names);
}

async function openTiling() {
  const { measuring, given, names } = measuringAndGiven(model);
  // The samples are few. Sizes computed in a network are nothing for a GPU.
  const options = { enableCpuMemArena: false }; // it would keep the memory
  return { measuring: await openSession(measuring, false, options), given: await openSession(given, contract.onGpu, options), names };
}

/** What a network makes of a picture in one pass. */
async function paintWhole(network, picture, statistics = {}) {
  const { width, height } = picture;
  const results = await network.run({ [session.inputNames[0]]: tensorOf([picture]), ...statistics }, [session.outputNames[0]]);
  const [result] = Object.values(results), { data, dims } = result;
  const painting = blank(width, height), { pixels } = painting;
  // A frame file gives levels, pixel by pixel, an image file planes of numbers from 0 to 1, perhaps larger ones.
  const image = contract.io === "image";
  const [plane, row, column, factor] = image ? [dims[2] * dims[3], dims[3], 1, 255] : [1, 3 * width, 3, 1];
  let i = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0, j = y * row; x < width; x++, i += 4, j += column) {
      pixels[i] = data[j] * factor;
      pixels[i + 1] = data[j + plane] * factor;
      pixels[i + 2] = data[j + 2 * plane] * factor;
      pixels[i + 3] = 255;
    }
  }
  result.dispose();
  return painting;
}

/** What a file takes for pictures of one size: uint8 NHWC RGB of any, or float32 NCHW RGB in [0, 1] with the sides it wants. */
function tensorOf(pictures) {
  const image = contract.io === "image", { width, height } = pictures[0];
  const columns = image ? mirrored(width) : [...Array(width).keys()], rows = image ? mirrored(height) : [...Array(height).keys()];
  const [count, plane] = [pictures.length, columns.length * rows.length];
  const data = new (image ? Float32Array : Uint8Array)(3 * count * plane);
  const [channel, column, factor] = image ? [plane, 1, 1 / 255] : [1, 3, 1];
  pictures.forEach(({ pixels }, n) => {
    let j = 3 * n * plane;
    for (const y of rows) {
      for (const x of columns) {
        const i = 4 * (y * width + x);
        data[j] = pixels[i] * factor;
        data[j + channel] = pixels[i + 1] * factor;
        data[j + 2 * channel] = pixels[i + 2] * factor;
        j += column;
      }
    }
  });
  const dims = image ? [count, 3, rows.length, columns.length] : [count, height, width, 3];
  return new ort.Tensor(image ? "float32" : "uint8", data, dims);
}

/** Which pixels of a side fill it up to the next size that the network takes, mirrored at its end. */
function mirrored(side) {
  const { stride, least } = contract;
  const period = Math.max(2 * (side - 1), 1);
  return Array.from({ length: Math.ceil(Math.max(side, least) / stride) * stride }, (_, i) =>
    Math.min(i % period, period - (i % period)));
}

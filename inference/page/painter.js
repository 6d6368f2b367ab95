// The worker that paints: ONNX Runtime Web with one style. It gets pixels and gives pixels, and knows nothing of the page.

import { paintLevels } from "./levels.js";

const LUMA = [0.299, 0.587, 0.114]; // Y of YIQ, as in the program's own luminance-only
const CONTRACTS = ["1", "2"];

let ort, provider, half;
let session, contract;
let last; // the content painted last and its painting, to be mixed again with another strength or color

/** A file that is not one of ours: no other backend would take it. */
class Refused extends Error {}

const TASKS = { start, open, paint, mix };

addEventListener("message", async ({ data: { id, task, values } }) => {
  try {
    const result = await TASKS[task](values);
    postMessage({ id, result }, result.pixels ? [result.pixels.buffer] : []);
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
  const options = { executionProviders: [opened.onGpu ? "webgpu" : "wasm"], logSeverityLevel: 3 };
  const fresh = await ort.InferenceSession.create(bytes, options);
  const [oldSession, oldContract] = [session, contract];
  [session, contract] = [fresh, opened];
  try {
    // A small picture first: a GPU's programs are made, and fail, when something is painted.
    await paintPicture({ pixels: new Uint8ClampedArray(4 * 16 * 16), width: 16, height: 16 });
  } catch (error) {
    [session, contract] = [oldSession, oldContract];
    await fresh.release().catch(() => {});
    throw error;
  }
  last = undefined;
  await oldSession?.release().catch(() => {});
  return { contract };
}

/**
 * Paint RGBA pixels, coarse to fine.
 * @param {{pixels: Uint8ClampedArray, width: number, height: number, strokes: number, strength: number, keepColor: number}} values
 */
async function paint(values) {
  const { pixels, width, height } = values;
  const began = performance.now();
  const content = { pixels, width, height };
  last = { content, stylized: await paintLevels(content, values.strokes, paintPicture) };
  return { ...mix(values), ms: performance.now() - began };
}

/** The picture painted last, blended: strength 0 is the content; keepColor 1 takes only light and dark from the painting. */
function mix({ strength, keepColor }) {
  const { pixels, width, height } = last.content, stylized = last.stylized.pixels;
  const mixed = new Uint8ClampedArray(pixels.length); // rounds and clips
  const [r, g, b] = LUMA;
  const ofStylized = strength * (1 - keepColor), ofContent = 1 - ofStylized, ofChange = strength * keepColor;
  for (let i = 0; i < pixels.length; i += 4) {
    const red = stylized[i] - pixels[i], green = stylized[i + 1] - pixels[i + 1], blue = stylized[i + 2] - pixels[i + 2];
    const change = ofChange * (r * red + g * green + b * blue); // of the luminance
    mixed[i] = ofContent * pixels[i] + ofStylized * stylized[i] + change;
    mixed[i + 1] = ofContent * pixels[i + 1] + ofStylized * stylized[i + 1] + change;
    mixed[i + 2] = ofContent * pixels[i + 2] + ofStylized * stylized[i + 2] + change;
    mixed[i + 3] = 255;
  }
  return { pixels: mixed, width, height };
}

/** What the network makes of a picture, {pixels: RGBA, width, height}, in one pass. */
async function paintPicture({ pixels, width, height }) {
  const stylized = contract.io === "frame" ? await paintFrame(pixels, width, height) : await paintImage(pixels, width, height);
  return { pixels: stylized, width, height };
}

/** A frame file: uint8 NHWC RGB of any size. */
async function paintFrame(pixels, width, height) {
  const frame = new Uint8Array(3 * width * height);
  for (let i = 0, j = 0; i < pixels.length; i += 4, j += 3) {
    frame[j] = pixels[i];
    frame[j + 1] = pixels[i + 1];
    frame[j + 2] = pixels[i + 2];
  }
  const painted = await run(new ort.Tensor("uint8", frame, [1, height, width, 3]));
  const stylized = new Uint8ClampedArray(pixels.length);
  for (let i = 0, j = 0; i < pixels.length; i += 4, j += 3) {
    stylized[i] = painted[j];
    stylized[i + 1] = painted[j + 1];
    stylized[i + 2] = painted[j + 2];
  }
  return stylized;
}

/** An image file: float32 NCHW RGB in [0, 1], sides that the network takes. */
async function paintImage(pixels, width, height) {
  const columns = mirrored(width), rows = mirrored(height);
  const plane = columns.length * rows.length;
  const image = new Float32Array(3 * plane);
  let j = 0;
  for (const y of rows) {
    for (const x of columns) {
      const i = 4 * (y * width + x);
      image[j] = pixels[i] / 255;
      image[plane + j] = pixels[i + 1] / 255;
      image[2 * plane + j] = pixels[i + 2] / 255;
      j++;
    }
  }
  const painted = await run(new ort.Tensor("float32", image, [1, 3, rows.length, columns.length]));
  const stylized = new Uint8ClampedArray(pixels.length);
  let i = 0;
  for (let y = 0; y < height; y++) {
    j = y * columns.length;
    for (let x = 0; x < width; x++, i += 4, j++) {
      stylized[i] = painted[j] * 255;
      stylized[i + 1] = painted[plane + j] * 255;
      stylized[i + 2] = painted[2 * plane + j] * 255;
    }
  }
  return stylized;
}

/** Which pixels of a side fill it up to the next size that the network takes, mirrored at its end. */
function mirrored(side) {
  const { stride, least } = contract;
  const period = Math.max(2 * (side - 1), 1);
  return Array.from({ length: Math.ceil(Math.max(side, least) / stride) * stride }, (_, i) =>
    Math.min(i % period, period - (i % period)));
}

async function run(tensor) {
  const results = await session.run({ [session.inputNames[0]]: tensor });
  const result = results[session.outputNames[0]];
  const data = result.data;
  result.dispose();
  return data;
}

/** What a file of ours says about itself: the metadata of ONNX's ModelProto, field 14, entries of key 1 and value 2. */
function readContract(bytes) {
  const metadata = {};
  try {
    for (const entry of fields(bytes, 14)) {
      const [key, value] = [1, 2].map((number) => new TextDecoder().decode([...fields(entry, number)][0]));
      metadata[key] = value;
    }
  } catch {
    throw new Refused("is damaged, or not an ONNX file");
  }
  const version = metadata["allaprima.contract"];
  if (!version) throw new Refused("is an ONNX file, but no style of Alla Prima");
  if (!CONTRACTS.includes(version)) throw new Refused(`has contract ${version}, which this page does not know; update it`);
  return {
    io: metadata["allaprima.io"] ?? "image",
    precision: metadata["allaprima.precision"] ?? "fp32",
    stride: Number(metadata["allaprima.stride_px"]),
    least: Number(metadata["allaprima.least_px"]),
    title: metadata["allaprima.title"],
    painter: metadata["allaprima.painter"],
    year: metadata["allaprima.year"],
    license: metadata["allaprima.license"],
  };
}

/** The byte strings of one field of a protobuf message. */
function* fields(bytes, wanted) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      if (at >= bytes.length || factor > 2 ** 63) throw new Error("truncated");
      const byte = bytes[at++];
      value += (byte % 128) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint(), number = Math.floor(tag / 8), wire = tag % 8;
    if (wire === 0) varint();
    else if (wire === 1) at += 8;
    else if (wire === 5) at += 4;
    else if (wire === 2) {
      const size = varint();
      if (at + size > bytes.length) throw new Error("truncated");
      if (number === wanted) yield bytes.subarray(at, at + size);
      at += size;
    } else throw new Error("unknown wire type");
  }
}

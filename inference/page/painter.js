// The worker that paints: ONNX Runtime Web with one style. It gets pixels and gives pixels, and knows nothing of the page.

import { blank, levelSizes, paintLevels } from "./levels.js";
import { MARGINS, Refused, SIDES, measuringAndGiven, readContract } from "./onnx.js";
import { paintTiles } from "./tiles.js";

const LUMA = [0.299, 0.587, 0.114]; // Y of YIQ, as in the program's own luminance-only
// In the network at once; a larger picture is painted tile by tile. Some 200 MB with the realtime tier, 750 with another.
const WHOLE_PIXELS = { realtime: 1.5 * 2 ** 20, other: 1024 * 768 };
const BAND_ROWS = 256;
const JPEG_QUALITY = 0.95;

// How far a network's painting of the test picture may be from what Python paints in fp32, levels of 255 in the mean. A
// processor or GPU that gets it wrong is off by far more.
const MAX_OFF = { fp32: 2, fp16: 3, int8: 5 };
const TEST_PX = 48;

let ort, onGpu, half;
let styles = []; // that are open, {session, contract, bytes, tiling}: the one that paints, and one that is mixed in
let last; // the content painted last and its paintings, to be mixed again with another strength or color
let progress = () => {}; // is told how many pixels were painted, of a picture that takes long
let cancelled = false;

class Cancelled extends Error {}

/** A network that this machine computes wrongly. */
class Wrong extends Error {}

const TASKS = { start, open, release, paint, mix, save, cancel };

addEventListener("message", async ({ data: { id, task, values } }) => {
  try {
    const result = await TASKS[task](values, (share) => postMessage({ id, progress: share }));
    postMessage({ id, result }, result?.pixels ? [result.pixels.buffer] : []);
  } catch (error) {
    const kinds = [[Refused, "refused"], [Wrong, "wrong"], [Cancelled, "cancelled"]];
    const kind = kinds.find(([type]) => error instanceof type)?.[1];
    postMessage({ id, error: error?.message ?? String(error), kind });
  }
});

/** Load ONNX Runtime. */
async function start({ module, wasm, threads, ...gpu }) {
  ({ onGpu, half } = gpu);
  ort = await import(module);
  ort.env.logLevel = "error";
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = threads;
}

/**
 * Open a style; the old one in its place stays if it cannot be opened.
 * @param {{bytes: Uint8Array, place: number, expected: Uint8Array?}} values expected: RGB, what is to be painted of the test
 * picture; without it is not looked at
 */
async function open({ bytes, place, expected }) {
  const contract = readContract(bytes);
  // fp16 needs a GPU that has it: without, WebGPU paints nothing and raises nothing. int8 is for CPUs.
  contract.onGpu = onGpu && (contract.precision === "fp32" || (contract.precision === "fp16" && half));
  const style = { session: await openSession(bytes, contract.onGpu), contract, bytes, tiling: undefined };
  try {
    // A small picture first: a GPU's programs are made, and fail, when something is painted.
    const off = await levelsOff(style, expected);
    if (!(off <= MAX_OFF[contract.precision])) throw new Wrong(`is computed wrongly in ${contract.precision} here, ${off.toFixed(0)} levels off; choose another network under Advanced`);
  } catch (error) {
    await style.session.release().catch(() => {});
    throw error;
  }
  await release({ place });
  styles[place] = style;
  last = undefined;
  return { contract };
}

async function release({ place }) {
  const old = styles[place];
  styles[place] = last = undefined;
  for (const each of [old?.session, old?.tiling?.measuring, old?.tiling?.given]) await each?.release().catch(() => {});
}

/** How far its painting of the test picture is from what is expected, in the mean; 0 where nothing is. */
async function levelsOff(style, expected) {
  const { pixels } = await paintWhole(style, style.session, testPicture());
  if (!expected) return 0;
  return expected.reduce((sum, level, i) => sum + Math.abs(level - pixels[i + Math.floor(i / 3)]), 0) / expected.length;
}

/** Slopes, and an edge: web.py has it, too. */
function testPicture() {
  const picture = blank(TEST_PX, TEST_PX);
  for (let y = 0, i = 0; y < TEST_PX; y++) {
    for (let x = 0; x < TEST_PX; x++, i += 4) {
      picture.pixels.set([5 * x, 5 * y, (x - 24) ** 2 + (y - 24) ** 2 < 200 ? 255 : 60, 255], i);
    }
  }
  return picture;
}

function openSession(bytes, onGpu, options = {}) {
  return ort.InferenceSession.create(bytes, { executionProviders: [onGpu ? "webgpu" : "wasm"], logSeverityLevel: 3, ...options });
}

/**
 * Paint RGBA pixels, coarse to fine.
 * @param {{pixels: Uint8ClampedArray, width: number, height: number, strokes: number, strength: number, keepColor: number,
 *   second: number?}} values second: how much of the second style's painting is in it, where there is one
 */
async function paint(values) {
  const { pixels, width, height } = values;
  const began = performance.now();
  cancelled = false; // a late word about another picture
  const content = { pixels, width, height };
  last = { content, paintings: await paintings(content, values) };
  return { ...mix(values), ms: performance.now() - began };
}

/** Which styles paint: the second one, too, where somebody asks for it. */
const painters = (second) => styles.filter(Boolean).slice(0, second === undefined ? 1 : 2);

/** What each of them makes of a picture. */
async function paintings(content, { strokes, second }) {
  const painted = [];
  for (const style of painters(second)) {
    painted.push(await paintLevels(content, strokes, (picture) => paintPicture(style, picture)));
  }
  return painted;
}

/** The picture painted last, blended. */
function mix({ strength, keepColor, second }) {
  const { pixels, width, height } = last.content;
  const mixed = new Uint8ClampedArray(pixels.length);
  mixInto(mixed, pixels, blended(last.paintings, second).pixels, strength, keepColor);
  return { pixels: mixed, width, height };
}

/** One painting of one or two: `share` is how much of the second is in it. */
function blended([first, second], share) {
  if (!second || !share) return first;
  const both = blank(first.width, first.height);
  for (let i = 0; i < both.pixels.length; i++) both.pixels[i] = (1 - share) * first.pixels[i] + share * second.pixels[i];
  return both;
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
 * Paint a large picture and make a file of it.
 * @param {{picture: ImageBitmap, strokes: number, strength: number, keepColor: number, second: number, type: string,
 *   beside: boolean}} values type: of the file, image/jpeg or image/png; beside: with the photo on its left
 * @returns {Promise<{blob: Blob?}>} none where it was cancelled
 */
async function save({ picture, strokes, strength, keepColor, second, type, beside }, report) {
  const { width, height } = picture;
  const all = levelSizes(height, width, strokes).reduce((sum, size) => sum + size[0] * size[1], 0) * painters(second).length;
  let done = 0;
  progress = (pixels) => report((done += pixels) / all);
  cancelled = false;
  try {
    const content = pixelsOf(picture);
    const painting = blended(await paintings(content, { strokes, second }), second);
    mixInto(painting.pixels, content.pixels, painting.pixels, strength, keepColor);
    return { blob: await fileOf(beside ? [content, painting] : [painting], type) };
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

/** Pictures of one size, side by side. */
function fileOf(pictures, type) {
  const [{ width, height }] = pictures;
  const canvas = new OffscreenCanvas(pictures.length * width, height), context = canvas.getContext("2d", { willReadFrequently: true });
  pictures.forEach(({ pixels }, i) => context.putImageData(new ImageData(pixels, width, height), i * width, 0));
  return canvas.convertToBlob({ type, quality: JPEG_QUALITY });
}

/** What a style makes of a picture, {pixels: RGBA, width, height}. */
async function paintPicture(style, picture) {
  const { session, contract } = style;
  const most = WHOLE_PIXELS[contract.tier] ?? WHOLE_PIXELS.other;
  if (picture.width * picture.height > most) {
    const measure = (squares, margins) => statisticsOf(style, squares, margins);
    const paint = (tile, statistics) => paintWhole(style, style.tiling.given, tile, statistics);
    return paintTiles(picture, most, contract.stride, { measure, paint, painted });
  }
  const painting = await paintWhole(style, session, picture);
  await painted(picture.width * picture.height);
  return painting;
}

/** Tell how far it is, and hear whether to go on. */
async function painted(pixels) {
  progress(pixels);
  await new Promise((resolve) => setTimeout(resolve)); // a message may have come
  if (cancelled) throw new Cancelled();
}

async function statisticsOf(style, squares, margins) {
  style.tiling ??= await openTiling(style);
  const feeds = { [MARGINS]: margins, [SIDES]: [squares[0].height, squares[0].width] };
  for (const name in feeds) feeds[name] = new ort.Tensor("int64", BigInt64Array.from(feeds[name], BigInt), [2]);
  const { measuring, names } = style.tiling;
  return measuring.run({ [style.session.inputNames[0]]: tensorOf(style.contract, squares), ...feeds }, names);
}

async function openTiling({ bytes, contract }) {
  const { measuring, given, names } = measuringAndGiven(bytes);
  // The samples are few. Sizes computed in a network are nothing for a GPU.
  const options = { enableCpuMemArena: false }; // it would keep the memory
  return { measuring: await openSession(measuring, false, options), given: await openSession(given, contract.onGpu, options), names };
}

/** What a style's network makes of a picture in one pass. */
async function paintWhole({ session, contract }, network, picture, statistics = {}) {
  const { width, height } = picture;
  const results = await network.run({ [session.inputNames[0]]: tensorOf(contract, [picture]), ...statistics }, [session.outputNames[0]]);
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
function tensorOf(contract, pictures) {
  const image = contract.io === "image", { width, height } = pictures[0];
  const columns = image ? mirrored(contract, width) : [...Array(width).keys()], rows = image ? mirrored(contract, height) : [...Array(height).keys()];
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
function mirrored({ stride, least }, side) {
  const period = Math.max(2 * (side - 1), 1);
  return Array.from({ length: Math.ceil(Math.max(side, least) / stride) * stride }, (_, i) =>
    Math.min(i % period, period - (i % period)));
}

// Asking the worker for paintings of the source, and showing them.

import { ask, startWithoutGpu } from "./engine.js";
import { STROKES_PIXELS } from "./levels.js";
import { $, contentCanvas, now, paintingCanvas, say, stage } from "./state.js";

const grab = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
const AUTO_PIXELS = { webgpu: 640 * 360, wasm: 384 * 216 }; // of live pictures
const PHOTO_PIXELS = [1024 * 768, 2 ** 21];
const QUICK_PIXELS = 2 ** 18; // a photo of more is painted at half its size first, in a quarter of the time
const FADE_MS = 250;

let wanted = ""; // "paint" a new picture, or only "mix" the last one anew
let painting = ""; // what the worker is asked for
let whenIdle = [];
let finished = []; // when the last pictures were

export function want(what) {
  wanted = wanted === "paint" || what === "paint" ? "paint" : what;
  pump();
}

/** The rate of pictures begins anew. */
export function restartRate() {
  finished = [];
}

/** Nothing waits to be painted any more. */
export async function painted() {
  while (now.busy || (wanted && now.source && now.style)) await idle();
}

export async function idle() {
  while (now.busy) await new Promise((resolve) => whenIdle.push(resolve));
}

async function pump() {
  if (now.busy || !wanted || !now.source || !now.style) return;
  const task = wanted, from = now.source, painter = now.style;
  [now.busy, wanted, painting] = [true, "", task];
  if (task === "paint") $("done").textContent = "";
  const slow = setTimeout(() => { $("speed").textContent = "Painting …"; }, 500);
  try {
    const picture = task === "paint" ? takePicture() : null;
    const quick = picture && from.kind === "photo" && (await showQuick(picture, from));
    const result = await ask(task, { ...(picture && valuesOf(picture)), ...mixture() });
    if (now.source === from) {
      if (quick) fade();
      show(result, picture);
      if (picture && from.kind === "photo") $("done").textContent = `Painted as ${painter.title ?? painter.name}.`;
    }
  } catch (error) {
    if (error.kind !== "cancelled") await recover(error, painter);
  }
  clearTimeout(slow);
  painting = "";
  free();
}

const valuesOf = ({ data, width, height }) => ({ strokes: strokes(), pixels: data, width, height });

/** Paint a large photo at half its size and show that; returns whether it did. */
async function showQuick(picture, from) {
  const { width, height } = picture;
  if (now.style.onGpu || width * height <= QUICK_PIXELS) return false;
  const half = grabbed(Math.ceil(width / 2), Math.ceil(height / 2), false, (context, w, h) => context.drawImage(from.element, 0, 0, w, h));
  const { pixels } = await ask("paint", { ...valuesOf(half), ...mixture() });
  await new Promise((resolve) => setTimeout(resolve)); // something else may have been asked for
  if (now.source !== from) return false;
  const small = await createImageBitmap(new ImageData(pixels, half.width, half.height));
  for (const id of ["snapshot", "share_picture"]) $(id).disabled = true; // until the whole one is there
  put(contentCanvas, picture);
  Object.assign(paintingCanvas, { width, height });
  paintingCanvas.getContext("2d").drawImage(small, 0, 0, width, height);
  small.close();
  fitStage(width, height);
  stage.dataset.quick = Number(stage.dataset.quick ?? 0) + 1;
  await new Promise((resolve) => setTimeout(resolve)); // for the screen
  return true;
}

/** What is shown now fades into what comes. */
function fade() {
  const fading = $("fading"), { width, height } = paintingCanvas;
  Object.assign(fading, { width, height });
  fading.getContext("2d").drawImage(paintingCanvas, 0, 0);
  const duration = matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : FADE_MS;
  fading.animate({ opacity: [1, 0] }, duration);
}

/** Another style is coming, which wants a painting then: the one under way, of a photo, ends after the network's next pass. */
export function abandon() {
  if (painting === "paint" && now.source?.kind === "photo") ask("cancel").catch(() => {});
}

/** The worker may have something else to do. */
export function free() {
  now.busy = false;
  for (const resolve of whenIdle.splice(0)) resolve();
  if (now.source && now.source.kind !== "photo" && !now.paused) requestAnimationFrame(() => want("paint"));
  else pump();
}

export const mixture = () => ({
  strength: $("strength").value / 100,
  keepColor: $("keep_color").value / 100,
  second: now.source?.kind === "photo" ? $("mix").value / 100 : undefined, // for others it would take too long
});

/** How large the strokes are; the leftmost place of the slider is one pass. */
export const strokes = () => ($("strokes").value === $("strokes").min ? 0 : 2 ** $("strokes").value);

/** After a failure: a GPU may have been lost, then it goes on without; else it stops and says why. */
export async function recover(error, painter) {
  if (now.engine.provider === "webgpu") {
    try {
      await startWithoutGpu(error);
      await ask("open", { bytes: painter.bytes, place: 0 });
      wanted = "paint";
      return;
    } catch (again) {
      error = again;
    }
  }
  say(`Painting failed: ${error.message}`);
  now.paused = true;
  $("pause").textContent = "Resume";
}

/** What is quick, and more where the strokes would be too small to be seen there. */
function photoPixels() {
  const [least, most] = PHOTO_PIXELS;
  return strokes() ? Math.min(Math.max(STROKES_PIXELS / strokes() ** 2, least), most) : most;
}

/** The size to paint at, [width, height], of so many pixels where the user leaves it open. */
export function workSize(width, height, auto) {
  const most = $("size").value;
  const scale = Math.min(1, most === "auto" ? Math.sqrt(auto / (width * height)) : most / Math.max(width, height));
  return [width, height].map((side) => Math.max(1, Math.round(side * scale)));
}

/** The source's picture now, at the size to be painted at. */
function takePicture() {
  const { element, kind } = now.source;
  const [width, height] = kind === "photo" ? [now.source.width, now.source.height] : [element.videoWidth, element.videoHeight];
  const auto = kind === "photo" ? photoPixels() : AUTO_PIXELS[now.style.onGpu ? "webgpu" : "wasm"];
  const mirrored = kind === "camera" && now.facing === "user" && $("mirror").checked;
  return grabbed(...workSize(width, height, auto), mirrored, (context, w, h) => context.drawImage(element, 0, 0, w, h));
}

/** The pixels of what is drawn. */
export function grabbed(width, height, mirrored, draw) {
  Object.assign(grab.canvas, { width, height });
  grab.imageSmoothingQuality = "high";
  grab.fillStyle = "#fff"; // behind transparent pictures
  grab.fillRect(0, 0, width, height);
  if (mirrored) grab.setTransform(-1, 0, 0, 1, width, 0);
  draw(grab, width, height);
  return grab.getImageData(0, 0, width, height);
}

function put(canvas, picture) {
  if (canvas.width !== picture.width || canvas.height !== picture.height) {
    Object.assign(canvas, { width: picture.width, height: picture.height });
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

/** Show the photo as it is, until it is painted. */
export function showContent() {
  const picture = takePicture(), { width, height } = picture;
  put(contentCanvas, picture);
  Object.assign(paintingCanvas, { width, height }); // which empties it
  fitStage(width, height);
}

function fitStage(width, height) {
  stage.style.setProperty("--width", width);
  stage.style.setProperty("--height", height);
  placeDivider();
}

/** Show what was painted, and beside it what it was painted from. */
export function show({ pixels, width, height, ms }, picture) {
  if (picture) put(contentCanvas, picture);
  put(paintingCanvas, new ImageData(pixels, width, height));
  fitStage(width, height);
  stage.dataset.state = "painted";
  stage.dataset.painted = Number(stage.dataset.painted ?? 0) + 1;
  for (const id of ["snapshot", "share_picture", "film"]) $(id).disabled = false;
  $("record").disabled = now.source.kind === "photo";
  $("full_size").hidden = now.source.kind !== "photo" || width * height >= now.source.width * now.source.height;
  if (now.recorder) now.recorder.put();
  if (!picture) return;
  finished = [...finished.slice(-20), performance.now()];
  const fps = finished.length > 1 ? (1000 * (finished.length - 1)) / (finished.at(-1) - finished[0]) : 0;
  const rate = now.source.kind !== "photo" && fps ? `, ${fps.toFixed(1)} pictures a second` : "";
  $("speed").textContent = `${width} × ${height} px in ${ms.toFixed(0)} ms${rate}`;
}

/** The divider stands in the picture, which the stage fits into itself. */
export function placeDivider() {
  const share = $("compare").value / 100;
  const { width, height } = paintingCanvas;
  const box = stage.getBoundingClientRect();
  const shown = Math.min(box.width, (box.height * width) / height);
  const cut = ((box.width - shown) / 2 + share * shown) / box.width;
  $("divider").setAttribute("aria-valuenow", $("compare").value);
  stage.style.setProperty("--cut", share === 0 ? "0%" : `${100 * cut}%`);
  stage.classList.toggle("comparing", share > 0 && share < 1);
}

// Pictures out: saved, shared, photos at full size.

import { ask } from "./engine.js";
import { free, idle, mixture, recover, strokes } from "./painting.js";
import { $, contentCanvas, now, paintingCanvas, say, showProgress } from "./state.js";

const MAX_PIXELS = 25e6; // saved; what a phone's browser has memory for
const QUALITY = 0.95; // of JPEG

export function nameOf(ending) {
  const time = new Date().toISOString().slice(0, 19).replace(/\D/g, "");
  return `allaprima_${(now.style?.name ?? "picture").replace(/\W+/g, "_")}_${time}.${ending}`;
}

export function save(blob, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = nameOf(ending);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

/** How pictures are saved: with the photo on the left or not. */
const format = () => ({ type: $("format").value, beside: $("beside").checked });
const endingOf = (type) => (type === "image/png" ? "png" : "jpg");

/** What is on the screen, as a file's content. */
function pictureShown() {
  const { type, beside } = format();
  const { width, height } = paintingCanvas;
  const canvas = new OffscreenCanvas(beside ? 2 * width : width, height), context = canvas.getContext("2d");
  if (beside) context.drawImage(contentCanvas, 0, 0);
  context.drawImage(paintingCanvas, canvas.width - width, 0);
  return canvas.convertToBlob({ type, quality: QUALITY });
}

export async function snapshot() {
  const blob = await pictureShown();
  save(blob, endingOf(blob.type));
}

/** Hand the picture to another app; where the browser shares no files, the link. */
export async function share() {
  const blob = await pictureShown();
  const file = new File([blob], nameOf(endingOf(blob.type)), { type: blob.type });
  const title = now.style ? `Painted as ${now.style.title ?? now.style.name}` : "Painted";
  if (location.protocol === "file:" && !navigator.canShare?.({ files: [file] })) {
    throw new Error("This browser hands no pictures to other apps; take a snapshot, and send that.");
  }
  const shared = navigator.canShare?.({ files: [file] }) ? { files: [file], title } : { url: location.href, title };
  await navigator.share(shared).catch((error) => {
    if (error.name !== "AbortError") throw new Error(`It cannot be shared: ${error.message}`); // else the user thought better of it
  });
}

let long; // {cancelled, cancel} of what takes long and keeps the worker to itself

/**
 * Do what takes long; what the page is asked meanwhile waits. A second press of its button cancels it.
 * @param {(mine: {cancelled: boolean, cancel: () => void}) => Promise<string?>} work returns what is to be said, nothing where it
 * was cancelled
 */
export async function keepBusy(button, work) {
  if (long) {
    cancelLong();
    return;
  }
  const mine = { cancelled: false, cancel: () => ask("cancel").catch(say) };
  const label = button.textContent;
  long = mine;
  button.textContent = "Cancel";
  await idle();
  now.busy = true;
  const painter = now.style; // none while another one is opened
  try {
    const done = painter && !mine.cancelled ? await work(mine) : undefined;
    $("speed").textContent = done ? "" : "Cancelled";
    if (done) say(done);
  } catch (error) {
    if (mine.cancelled) $("speed").textContent = "Cancelled";
    else if (error.inWorker) await recover(error, painter);
    else say(error);
  }
  long = undefined;
  showProgress();
  button.textContent = label;
  free();
}

/** Returns whether there was anything to cancel. */
export function cancelLong() {
  if (!long || long.cancelled) return false;
  long.cancelled = true;
  long.cancel();
  return true;
}

/** What would be lost with the page. */
export const unfinished = () => Boolean(long || now.recorder);
export const isSaving = () => Boolean(long);

/** How far it is, and how long it still takes. */
export function reporter(what) {
  const began = performance.now();
  return (share) => {
    showProgress(share);
    const left = share > 0.02 ? ((performance.now() - began) * (1 - share)) / share / 1000 : undefined;
    const time = left === undefined ? "" : `, ${left < 90 ? `${Math.ceil(left)} s` : `${Math.round(left / 60)} min`} left`;
    $("speed").textContent = `${what}: ${Math.floor(100 * share)} %${time}`;
  };
}

/** Paint the photo at its own size, as it is shown, and save it. */
export function saveFullSize() {
  return keepBusy($("full_size"), async (mine) => {
    const [width, height] = fullSize(now.source), size = `${width} × ${height} px`, how = format();
    const report = reporter(`Full size, ${size}`);
    report(0);
    const picture = await createImageBitmap(now.source.element, { resizeWidth: width, resizeHeight: height, resizeQuality: "high" });
    if (mine.cancelled) return undefined;
    const { blob } = await ask("save", { picture, strokes: strokes(), ...mixture(), ...how }, [picture], report);
    if (!blob) return undefined;
    save(blob, endingOf(blob.type));
    return `Saved at ${size}.`;
  });
}

/** A photo's size to be saved at: [width, height]. */
function fullSize({ width, height }) {
  const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (width * height)));
  return [width, height].map((side) => Math.max(1, Math.round(side * scale)));
}

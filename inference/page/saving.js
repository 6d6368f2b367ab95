// Snapshots, photos at full size, recordings.

import { ask } from "./engine.js";
import { free, idle, mixture, recover, strokes } from "./painting.js";
import { $, now, paintingCanvas, say } from "./state.js";

const MAX_PIXELS = 25e6; // saved; what a phone's browser has memory for

function save(blob, ending) {
  const time = new Date().toISOString().slice(0, 19).replace(/\D/g, "");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `allaprima_${(now.style?.name ?? "picture").replace(/\W+/g, "_")}_${time}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

export function snapshot() {
  paintingCanvas.toBlob((blob) => save(blob, "png"), "image/png");
}

/** A photo's size to be saved at: [width, height]. */
function fullSize({ width, height }) {
  const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (width * height)));
  return [width, height].map((side) => Math.max(1, Math.round(side * scale)));
}

let saving; // {cancelled}, while the full size is painted

/** Paint the photo at its own size, as it is shown, and save it; what the page is asked meanwhile waits. */
export async function saveFullSize() {
  if (saving) return cancelSaving();
  const mine = { cancelled: false };
  saving = mine;
  $("full_size").textContent = "Cancel";
  await idle();
  now.busy = true;
  const painter = now.style; // none while another one is opened
  try {
    const blob = painter && !mine.cancelled ? await paintFullSize(mine) : undefined;
    if (blob) save(blob, "jpg");
    else $("speed").textContent = "Cancelled";
  } catch (error) {
    await recover(error, painter);
  }
  saving = undefined;
  $("full_size").textContent = "Save full size";
  free();
}

/** A JPEG file; nothing where it was cancelled. */
async function paintFullSize(mine) {
  const [width, height] = fullSize(now.source), size = `${width} × ${height} px`;
  const report = (share) => { $("speed").textContent = `Full size, ${size}: ${Math.floor(100 * share)} %`; };
  report(0);
  const how = { resizeWidth: width, resizeHeight: height, resizeQuality: "high" };
  const picture = await createImageBitmap(now.source.element, how);
  if (mine.cancelled) return undefined;
  const { blob } = await ask("save", { picture, strokes: strokes(), ...mixture() }, [picture], report);
  if (blob) $("speed").textContent = `Saved at ${size}`;
  return blob;
}

export function cancelSaving() {
  if (!saving) return;
  saving.cancelled = true;
  ask("cancel").catch(say);
}

/** Films what is painted, at the size of its beginning, whatever size is painted later. */
class Recorder {
  constructor(kind) {
    const { width, height } = paintingCanvas;
    const [w, h] = [width, height].map((side) => Math.max(2, side - (side % 2))); // what H.264 takes
    this.canvas = Object.assign(document.createElement("canvas"), { width: w, height: h });
    this.context = this.canvas.getContext("2d");
    const parts = [];
    this.media = new MediaRecorder(this.canvas.captureStream(), { mimeType: kind, videoBitsPerSecond: 8e6 });
    this.media.addEventListener("dataavailable", ({ data }) => parts.push(data));
    this.media.addEventListener("stop", () => {
      this.media.stream.getTracks().forEach((track) => track.stop());
      const film = new Blob(parts, { type: kind });
      if (film.size) save(film, kind.startsWith("video/mp4") ? "mp4" : "webm");
      else say("Nothing was painted while it recorded.");
    });
    this.media.start(1000);
    this.put();
  }

  put() {
    const { width, height } = this.canvas;
    const scale = Math.min(width / paintingCanvas.width, height / paintingCanvas.height);
    const [w, h] = [paintingCanvas.width * scale, paintingCanvas.height * scale];
    this.context.fillRect(0, 0, width, height);
    this.context.drawImage(paintingCanvas, (width - w) / 2, (height - h) / 2, w, h);
  }

  stop() {
    now.recorder = undefined;
    $("record").textContent = "Record";
    delete $("record").dataset.on;
    if (this.media.state !== "inactive") this.media.stop();
  }
}

export function toggleRecording() {
  if (now.recorder) return now.recorder.stop();
  const kinds = ["video/mp4;codecs=avc1.42E01F", "video/webm;codecs=vp9", "video/webm"];
  const kind = globalThis.MediaRecorder && kinds.find((each) => MediaRecorder.isTypeSupported(each));
  if (!kind) return say("This browser cannot record.");
  now.recorder = new Recorder(kind);
  $("record").textContent = "Stop recording";
  $("record").dataset.on = "";
}

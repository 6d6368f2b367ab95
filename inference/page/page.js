// The page: where pictures come from, what is asked of the worker (painter.js), and what is shown.

const $ = (id) => document.getElementById(id);
const stage = $("stage"), contentCanvas = $("content"), paintingCanvas = $("painting");
const grab = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });

const MAX_PIXELS = 25e6; // saved; what a phone's browser has memory for
const AUTO_PIXELS = { photo: 1024 * 768, webgpu: 640 * 360, wasm: 384 * 216 };

let assets; // the styles and ONNX Runtime: from the server, or from inside a single file
let engine; // what the worker runs on
let source; // {kind: "photo" | "video" | "camera", element, width, height, stop}
let style; // {name, title}
let facing = "user";
let recorder;

// ---- the worker ----

let worker;
const waiting = new Map();

/** @param {(share: number) => void} progress is told how much of a long task is done */
function ask(task, values, transfer = [], progress = undefined) {
  const id = crypto.getRandomValues(new Uint32Array(1))[0];
  worker.postMessage({ id, task, values }, transfer);
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject, progress }));
}

async function startWorker(backend) {
  worker?.terminate();
  worker = new Worker(assets.worker); // a classic one: from a local file a browser takes no module
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
  engine = await ask("start", { sources: assets.sources, backend });
  showEngine();
}

function showEngine() {
  const { provider, threads, whyNot } = engine;
  $("backend").textContent = provider === "webgpu" ? "WebGPU" : `CPU, ${threads === 1 ? "1 thread" : `${threads} threads`}`;
  const headers = "the server does not send the headers that threads need (COOP and COEP)";
  const alone = threads === 1 && !self.crossOriginIsolated ? ` One thread only: ${headers}.` : "";
  $("why").textContent = provider === "webgpu" ? "" : `WebGPU: ${whyNot}.${alone}`;
}

// ---- styles ----

/** A style's file for this machine, unless the user says otherwise: int8 for CPUs. fp16 is faster on GPUs, but nobody has seen
 * yet what browsers make of it there, and a wrong picture comes without an error. */
function fileOf(entry) {
  const auto = engine.provider === "webgpu" ? "fp32" : "int8";
  const wanted = $("precision").value === "auto" ? auto : $("precision").value;
  return entry.files[wanted] ?? entry.files.fp32;
}

function listStyles() {
  const choices = assets.styles.map((entry, i) => {
    const label = document.createElement("label"), input = document.createElement("input"), image = new Image();
    Object.assign(input, { type: "radio", name: "style", value: i });
    Object.assign(image, { src: entry.thumbnail, alt: "" });
    label.append(input, image, entry.title);
    input.addEventListener("change", () => choose(entry));
    return label;
  });
  $("choices").replaceChildren(...choices);
}

let choice = 0; // the latest one counts, however long an earlier one takes to arrive

async function choose(entry) {
  const mine = ++choice;
  try {
    const bytes = await assets.read(fileOf(entry));
    if (mine === choice) await openStyle(bytes, entry.name);
  } catch (error) {
    markStyle();
    say(error);
  }
}

/** The style that is open is the one that is marked. */
function markStyle() {
  document.querySelectorAll("#choices input").forEach((input, i) => {
    input.checked = assets.styles[i].name === style?.name;
  });
}

let opening = Promise.resolve();

/** Styles are opened one after the other, however fast somebody clicks. */
function openStyle(bytes, name) {
  const task = opening.catch(() => {}).then(async () => {
    if (bytes.length < 16) throw new Error(`${name} is too small for an .onnx file`);
    stage.dataset.state = source ? "painting" : "empty";
    const previous = style;
    style = undefined; // nothing is painted meanwhile
    cancelSaving();
    await idle();
    try {
      const { contract } = await opened(bytes, previous).catch((error) => {
        throw new Error(`${name} ${error.refused ? error.message : `cannot be opened: ${error.message}`}`);
      });
      style = { name, bytes, ...contract };
    } catch (error) {
      style = previous;
      throw error;
    } finally {
      markStyle();
      want("paint");
    }
    say("");
    const who = [style.painter, style.year, style.license].filter(Boolean).join(", ");
    $("card").textContent = `“${style.title || name}”${who ? ` – ${who}` : ""}; ${style.precision}${engine.provider === "webgpu" && !style.onGpu ? " on the CPU, not made for this GPU" : ""}`;
  });
  opening = task;
  return task;
}

/** Open in the worker; where WebGPU fails, start anew without it. If that fails, too, the style before is open again. */
async function opened(bytes, previous) {
  try {
    return await ask("open", { bytes });
  } catch (error) {
    if (engine.provider !== "webgpu" || error.refused) throw error;
    await startWithoutGpu(error);
    try {
      return await ask("open", { bytes });
    } catch (again) {
      if (previous) await ask("open", { bytes: previous.bytes });
      throw again;
    }
  }
}

async function startWithoutGpu(error) {
  await startWorker("wasm");
  engine.whyNot = `it failed (${error.message})`;
  showEngine();
}

// ---- sources ----

let request = 0; // the latest source that was asked for counts

function setSource(next) {
  cancelSaving();
  recorder?.stop();
  source?.stop();
  source = next;
  const live = source.kind !== "photo";
  $("pause").disabled = !live;
  $("pause").textContent = "Pause";
  $("flip").hidden = $("mirroring").hidden = source.kind !== "camera";
  $("snapshot").disabled = $("record").disabled = true;
  $("full_size").hidden = true;
  $("camera").textContent = source.kind === "camera" ? "Stop camera" : "Camera";
  paused = false;
  finished = [];
  stage.dataset.state = "painting";
  say(style ? "" : "Choose a style.");
  want("paint");
}

function clearSource() {
  request++;
  cancelSaving();
  recorder?.stop();
  source?.stop();
  source = undefined;
  stage.dataset.state = "empty";
  $("camera").textContent = "Camera";
  $("flip").hidden = $("mirroring").hidden = $("full_size").hidden = true;
  for (const id of ["pause", "snapshot", "record"]) $(id).disabled = true;
  $("speed").textContent = "";
}

async function openFile(file) {
  if (!file) throw new Error("That is no file; drop a photo, a video or an .onnx file.");
  if (/\.onnx$/i.test(file.name)) {
    choice++;
    await openStyle(new Uint8Array(await file.arrayBuffer()), file.name);
  } else if (file.type.startsWith("video/") || /\.(mkv|avi|mov|mp4|m4v|webm)$/i.test(file.name)) {
    await openVideo(file);
  } else {
    const mine = ++request;
    const picture = await createImageBitmap(file).catch(() => {
      throw new Error(`${file.name} is not a photo, video or .onnx file that this browser can open; take a JPEG, PNG, WebP or .mp4 file`);
    });
    if (mine !== request) return picture.close();
    setSource({ kind: "photo", element: picture, width: picture.width, height: picture.height, stop: () => picture.close() });
  }
}

async function openVideo(file) {
  const mine = ++request;
  const video = document.createElement("video");
  const url = URL.createObjectURL(file);
  Object.assign(video, { src: url, muted: true, loop: true, playsInline: true });
  try {
    await video.play();
  } catch {
    URL.revokeObjectURL(url);
    throw new Error(`${file.name} is not a video that this browser can play; take an H.264 .mp4 or a .webm file`);
  }
  const stop = () => {
    video.pause();
    URL.revokeObjectURL(url);
  };
  if (mine !== request) return stop();
  setSource({ kind: "video", element: video, width: video.videoWidth, height: video.videoHeight, stop });
}

const CAMERA_TROUBLE = {
  NotAllowedError: "The camera may not be used: permission was denied. Allow it beside the address, then press Camera again.",
  NotFoundError: "There is no camera. Plug one in, or choose a photo or video.",
  NotReadableError: "The camera does not answer; is another program using it?",
  OverconstrainedError: "There is no such camera.",
};

async function openCamera() {
  if (!navigator.mediaDevices) {
    throw new Error("The browser gives no camera to this address: https, localhost or a local file is needed.");
  }
  const mine = ++request;
  say("Waiting for the camera …");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: facing, width: 1280, height: 720 } });
  } catch (error) {
    if (mine !== request) return;
    throw new Error(CAMERA_TROUBLE[error.name] ?? `The camera cannot be opened: ${error.message}`);
  }
  const stop = () => stream.getTracks().forEach((track) => track.stop());
  if (mine !== request) return stop();
  const video = document.createElement("video");
  Object.assign(video, { srcObject: stream, muted: true, playsInline: true });
  await video.play().catch((error) => {
    stop();
    throw error;
  });
  if (mine !== request) return stop();
  const camera = { kind: "camera", element: video, width: video.videoWidth, height: video.videoHeight, stop };
  stream.getVideoTracks()[0].addEventListener("ended", () => {
    if (source !== camera) return;
    clearSource();
    say("The camera is gone; plug it in and press Camera.");
  });
  setSource(camera);
}

// ---- painting ----

let wanted = ""; // "paint" a new picture, or only "mix" the last one anew
let paused = false;
let busy = false;
let whenIdle = [];
let finished = []; // when the last pictures were

function want(what) {
  wanted = wanted === "paint" || what === "paint" ? "paint" : what;
  pump();
}

async function idle() {
  while (busy) await new Promise((resolve) => whenIdle.push(resolve));
}

async function pump() {
  if (busy || !wanted || !source || !style) return;
  const task = wanted, from = source, painter = style;
  [busy, wanted] = [true, ""];
  const slow = setTimeout(() => { $("speed").textContent = "Painting …"; }, 500);
  try {
    const picture = task === "paint" ? takePicture() : null;
    const values = picture ? { strokes: strokes(), pixels: picture.data, width: picture.width, height: picture.height } : {};
    const result = await ask(task, { ...values, ...mixture() });
    if (source === from) show(result, picture);
  } catch (error) {
    await recover(error, painter);
  }
  clearTimeout(slow);
  free();
}

/** The worker may have something else to do. */
function free() {
  busy = false;
  for (const resolve of whenIdle.splice(0)) resolve();
  if (source && source.kind !== "photo" && !paused) requestAnimationFrame(() => want("paint"));
  else pump();
}

const mixture = () => ({ strength: $("strength").value / 100, keepColor: $("keep_color").value / 100 });

/** How large the strokes are; the leftmost place of the slider is one pass. */
const strokes = () => ($("strokes").value === $("strokes").min ? 0 : 2 ** $("strokes").value);

/** After a failure: a GPU may have been lost, then it goes on without; else it stops and says why. */
async function recover(error, painter) {
  if (engine.provider === "webgpu") {
    try {
      await startWithoutGpu(error);
      await ask("open", { bytes: painter.bytes });
      wanted = "paint";
      return;
    } catch (again) {
      error = again;
    }
  }
  say(`Painting failed: ${error.message}`);
  paused = true;
  $("pause").textContent = "Go on";
}

/** The source's picture now, at the size to be painted at. */
function takePicture() {
  const { element, kind } = source;
  const [width, height] = kind === "photo" ? [source.width, source.height] : [element.videoWidth, element.videoHeight];
  const auto = kind === "photo" ? AUTO_PIXELS.photo : AUTO_PIXELS[style.onGpu ? "webgpu" : "wasm"];
  const most = $("size").value;
  const scale = Math.min(1, most === "auto" ? Math.sqrt(auto / (width * height)) : most / Math.max(width, height));
  const [w, h] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  Object.assign(grab.canvas, { width: w, height: h });
  grab.imageSmoothingQuality = "high";
  grab.fillStyle = "#fff"; // behind transparent pictures
  grab.fillRect(0, 0, w, h);
  if (kind === "camera" && facing === "user" && $("mirror").checked) grab.setTransform(-1, 0, 0, 1, w, 0);
  grab.drawImage(element, 0, 0, w, h);
  return grab.getImageData(0, 0, w, h);
}

function put(canvas, picture) {
  if (canvas.width !== picture.width || canvas.height !== picture.height) {
    Object.assign(canvas, { width: picture.width, height: picture.height });
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

/** Show what was painted, and beside it what it was painted from. */
function show({ pixels, width, height, ms }, picture) {
  if (picture) put(contentCanvas, picture);
  put(paintingCanvas, new ImageData(pixels, width, height));
  stage.style.setProperty("--width", width);
  stage.style.setProperty("--height", height);
  placeDivider();
  stage.dataset.state = "painted";
  stage.dataset.painted = Number(stage.dataset.painted ?? 0) + 1;
  $("snapshot").disabled = false;
  $("record").disabled = source.kind === "photo";
  $("full_size").hidden = source.kind !== "photo" || width * height >= source.width * source.height;
  if (recorder) recorder.put();
  if (!picture) return;
  finished = [...finished.slice(-20), performance.now()];
  const fps = finished.length > 1 ? (1000 * (finished.length - 1)) / (finished.at(-1) - finished[0]) : 0;
  const rate = source.kind !== "photo" && fps ? `, ${fps.toFixed(1)} pictures a second` : "";
  $("speed").textContent = `${width} × ${height} px in ${ms.toFixed(0)} ms${rate}`;
}

// ---- controls ----

/** The divider stands in the picture, which the stage fits into itself. */
function placeDivider() {
  const share = $("compare").value / 100;
  const { width, height } = paintingCanvas;
  const box = stage.getBoundingClientRect();
  const shown = Math.min(box.width, (box.height * width) / height);
  const cut = ((box.width - shown) / 2 + share * shown) / box.width;
  stage.style.setProperty("--cut", share === 0 ? "0%" : `${100 * cut}%`);
  stage.classList.toggle("comparing", share > 0 && share < 1);
}

function compareAt(event) {
  const { width, height } = paintingCanvas;
  const box = stage.getBoundingClientRect();
  const shown = Math.min(box.width, (box.height * width) / height);
  const share = (event.clientX - box.left - (box.width - shown) / 2) / shown;
  $("compare").value = Math.round(100 * Math.min(Math.max(share, 0), 1));
  $("compare").dispatchEvent(new Event("input"));
}

function say(message) {
  $("message").textContent = message?.message ?? message;
}

function save(blob, ending) {
  const time = new Date().toISOString().slice(0, 19).replace(/\D/g, "");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `allaprima_${(style?.name ?? "picture").replace(/\W+/g, "_")}_${time}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function snapshot() {
  paintingCanvas.toBlob((blob) => save(blob, "png"), "image/png");
}

/** A photo's size to be saved at: [width, height]. */
function fullSize({ width, height }) {
  const scale = Math.min(1, Math.sqrt(MAX_PIXELS / (width * height)));
  return [width, height].map((side) => Math.max(1, Math.round(side * scale)));
}

let saving = false;

/** Paint the photo at its own size, as it is shown, and save it; what the page is asked meanwhile waits. */
async function saveFullSize() {
  if (saving) return cancelSaving();
  saving = true;
  $("full_size").textContent = "Cancel";
  await idle();
  busy = true;
  const painter = style, [width, height] = fullSize(source);
  const report = (share) => { $("speed").textContent = `Full size, ${width} × ${height} px: ${Math.floor(100 * share)} %`; };
  report(0);
  try {
    const how = { resizeWidth: width, resizeHeight: height, resizeQuality: "high" };
    const picture = await createImageBitmap(source.element, how);
    const { blob } = await ask("save", { picture, strokes: strokes(), ...mixture() }, [picture], report);
    if (blob) save(blob, "jpg");
    $("speed").textContent = blob ? `Saved at ${width} × ${height} px` : "Cancelled";
  } catch (error) {
    await recover(error, painter);
  }
  saving = false;
  $("full_size").textContent = "Save full size";
  free();
}

function cancelSaving() {
  if (saving) ask("cancel").catch(say);
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
    recorder = undefined;
    $("record").textContent = "Record";
    delete $("record").dataset.on;
    if (this.media.state !== "inactive") this.media.stop();
  }
}

function toggleRecording() {
  if (recorder) return recorder.stop();
  const kinds = ["video/mp4;codecs=avc1.42E01F", "video/webm;codecs=vp9", "video/webm"];
  const kind = globalThis.MediaRecorder && kinds.find((each) => MediaRecorder.isTypeSupported(each));
  if (!kind) return say("This browser cannot record.");
  recorder = new Recorder(kind);
  $("record").textContent = "Stop recording";
  $("record").dataset.on = "";
}

function togglePause() {
  paused = !paused;
  $("pause").textContent = paused ? "Go on" : "Pause";
  paused ? source.element.pause() : source.element.play().catch(say);
  if (!paused) want("paint");
}

function connectControls() {
  $("camera").addEventListener("click", () => (source?.kind === "camera" ? clearSource() : openCamera().catch(say)));
  $("flip").addEventListener("click", () => {
    facing = facing === "user" ? "environment" : "user";
    source.stop(); // phones open one at a time
    openCamera().catch((error) => {
      clearSource();
      say(error);
    });
  });
  for (const id of ["file", "model"]) {
    $(id).addEventListener("change", ({ target }) => {
      openFile(target.files[0]).catch(say);
      target.value = ""; // the same file may be chosen again
    });
  }
  for (const id of ["strength", "keep_color", "compare"]) {
    $(id).addEventListener("input", ({ target }) => {
      target.nextElementSibling.textContent = `${target.value} %`;
      if (id === "compare") placeDivider();
      else if (stage.dataset.state === "painted") want("mix");
    });
  }
  $("strokes").addEventListener("input", ({ target }) => {
    const size = strokes();
    target.nextElementSibling.textContent = size ? `${Number(size.toPrecision(2))} ×` : "fine";
    want("paint");
  });
  $("size").addEventListener("change", () => want("paint"));
  $("mirror").addEventListener("change", () => want("paint"));
  $("precision").addEventListener("change", () => document.querySelector("#choices input:checked")?.dispatchEvent(new Event("change")));
  $("pause").addEventListener("click", togglePause);
  $("snapshot").addEventListener("click", snapshot);
  $("full_size").addEventListener("click", saveFullSize);
  $("record").addEventListener("click", toggleRecording);
  addEventListener("keydown", (event) => {
    const button = { " ": "pause", s: "snapshot", r: "record" }[event.key];
    const typing = event.target.closest?.(event.key === " " ? "input, select, button, label" : "select");
    if (!button || typing || event.repeat || event.ctrlKey || event.metaKey || event.altKey || $(button).disabled) return;
    event.preventDefault();
    $(button).click();
  });
  stage.addEventListener("pointerdown", (event) => {
    if (stage.dataset.state === "empty") return;
    stage.setPointerCapture(event.pointerId);
    compareAt(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) compareAt(event);
  });
  new ResizeObserver(placeDivider).observe(stage);
  for (const kind of ["dragover", "dragleave", "drop"]) {
    addEventListener(kind, (event) => {
      event.preventDefault();
      stage.classList.toggle("dropping", kind === "dragover");
      if (kind === "drop") openFile(event.dataTransfer.files[0]).catch(say);
    });
  }
}

// ---- start ----

/** Where things are: inside this file (see inference/web.py), or beside it on the server. */
async function findAssets() {
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

async function start() {
  connectControls();
  assets = await findAssets();
  const backend = new URLSearchParams(location.search).get("backend") ?? "auto";
  await startWorker(backend).catch(async (error) => {
    if (backend === "wasm") throw error;
    await startWorker("wasm");
    engine.whyNot = `it failed (${error.message})`;
    showEngine();
  });
  listStyles();
  const first = document.querySelector("#choices input");
  if (first) {
    first.checked = true;
    await choose(assets.styles[0]);
  }
  document.body.dataset.ready = "true";
}

start().catch((error) => {
  $("backend").textContent = "Not working";
  say(`The page cannot start: ${error.message}`);
});

// Where pictures come from: photos, videos, the camera.

import { restartRate, showContent, want } from "./painting.js";
import { cancelLong, isSaving } from "./saving.js";
import { $, now, say, stage } from "./state.js";
import { openDropped } from "./styles.js";

let request = 0; // the latest source that was asked for counts

function setSource(next) {
  if (now.source?.sample && !next.sample && $("compare").value === HALF) { // nobody moved it
    $("compare").value = 0;
    $("compare").dispatchEvent(new Event("input"));
  }
  const lost = leaveSource();
  now.source = next;
  showControls();
  restartRate();
  stage.dataset.state = "painting";
  if (next.kind === "photo") showContent();
  const before = lost ? "What was being saved was not finished. " : "";
  const text = before + (now.style ? "" : "It is painted as soon as a style is here.");
  if (text || !next.sample) say(text); // nobody asked for a sample
  want("paint");
}

export function clearSource() {
  request++;
  leaveSource();
  now.source = undefined;
  showControls();
  stage.dataset.state = "empty";
  $("speed").textContent = "";
}

/** Returns whether something was being saved. */
function leaveSource() {
  const lost = cancelLong();
  now.recorder?.stop();
  now.source?.stop();
  now.paused = false;
  return lost;
}

/** What can be done with the source, before anything is painted. */
function showControls() {
  const kind = now.source?.kind, live = kind === "camera" || kind === "video";
  $("actions").hidden = !kind;
  $("pause").hidden = $("record").hidden = kind === "photo";
  $("pause").textContent = "Pause";
  $("pause").disabled = !live;
  for (const id of ["snapshot", "share_picture", "record", "film"]) $(id).disabled = true;
  $("film").hidden = kind !== "video";
  $("full_size").hidden = true;
  $("flip").hidden = $("mirroring").hidden = $("with_microphone").hidden = kind !== "camera";
  $("camera").textContent = kind === "camera" ? "Stop camera" : "Camera";
  $("mixing").hidden = kind !== "photo";
  $("turning").hidden = kind !== "photo" || photos.length < 2;
  $("which").textContent = `Photo ${1 + place} of ${photos.length}`;
}

/** Whether what is being saved, if anything is, may be lost. */
const mayLeave = () => !isSaving() || confirm("Something is still being saved. Stop that, and open this instead?");

const isVideo = ({ type, name }) => type.startsWith("video/") || /\.(mkv|avi|mov|mp4|m4v|webm)$/i.test(name);
const isStyle = ({ name }) => /\.onnx$/i.test(name);

let photos = [], place = 0; // that are turned over one after the other

/** @param {File[]} files photos are shown one after the other; of other files one is enough */
export async function openFiles(files) {
  if (!mayLeave()) return;
  now.touched = true;
  if (!files.length) throw new Error("That is no file; drop a photo, a video or an .onnx file.");
  const other = files.find((file) => isStyle(file) || isVideo(file));
  if (other) return isStyle(other) ? openDropped(other) : openVideo(other);
  await openPhoto(files, 0);
}

/** A row of photos for those who have none at hand; the first one is painted at once. */
export async function offerSamples() {
  const { samples } = now.assets;
  if (!samples.length) return;
  const buttons = samples.map(({ name, picture }, i) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.append(Object.assign(new Image(), { src: picture, alt: `The photo ${name}` }));
    button.addEventListener("click", () => mayLeave() && openSample(samples[i]).catch(say));
    return button;
  });
  $("samples").append(...buttons);
  $("samples").hidden = false;
  if (now.touched) return;
  await openSample(samples[0]);
  $("compare").value = HALF;
  $("compare").dispatchEvent(new Event("input"));
}

const HALF = "50"; // where the divider of the first picture stands

async function openSample({ picture }) {
  const mine = ++request;
  const image = Object.assign(new Image(), { src: picture });
  await image.decode();
  const bitmap = await createImageBitmap(image);
  if (mine !== request) return bitmap.close();
  photos = [];
  const { width, height } = bitmap;
  setSource({ kind: "photo", sample: true, element: bitmap, width, height, stop: () => bitmap.close() });
}

/** The next photo, or with -1 the one before. */
export async function turn(step) {
  await openPhoto(photos, (place + step + photos.length) % photos.length);
}

/** One of several, or the one after it where it cannot be opened; those that cannot are left out. */
async function openPhoto(files, at) {
  const mine = ++request;
  let trouble = "";
  while (files.length) {
    const file = files[at], picture = await createImageBitmap(file).catch(() => null);
    if (mine !== request) return picture?.close();
    if (picture) {
      [photos, place] = [files, at];
      setSource({ kind: "photo", element: picture, width: picture.width, height: picture.height, stop: () => picture.close() });
      if (trouble) say(trouble);
      return;
    }
    trouble ||= await whyNoPhoto(file);
    files = files.filter((each) => each !== file);
    at %= Math.max(1, files.length);
  }
  throw new Error(trouble);
}

async function whyNoPhoto(file) {
  // ISO base media file format: "ftyp" and a brand.
  const brand = await file.slice(4, 12).text().catch(() => "");
  if (/^ftyp(hei|hev|mif|msf)/.test(brand) || /\.hei[cf]$/i.test(file.name)) {
    return `${file.name} is a HEIC photo, which this browser cannot open. Get a JPEG: on an iPhone choose Settings > Camera > Formats > Most Compatible, or send the photo to yourself by mail; on a computer export it as JPEG.`;
  }
  return `${file.name} is not a photo, video or .onnx file that this browser can open; take a JPEG, PNG, WebP or .mp4 file`;
}

async function openVideo(file) {
  const mine = ++request;
  const video = document.createElement("video");
  const url = URL.createObjectURL(file);
  Object.assign(video, { src: url, muted: true, loop: true, playsInline: true });
  try {
    await video.play();
    if (!video.videoWidth) throw new Error("only its sound can be played");
  } catch {
    video.pause();
    URL.revokeObjectURL(url);
    throw new Error(`${file.name} is not a video that this browser can play; take an H.264 .mp4 or a .webm file`);
  }
  const source = { kind: "video", element: video, file, width: video.videoWidth, height: video.videoHeight };
  source.stop = () => {
    video.pause();
    source.sound?.context.close();
    URL.revokeObjectURL(url);
  };
  if (mine !== request) return source.stop();
  setSource(source);
}

const CAMERA_TROUBLE = {
  NotAllowedError: "The camera may not be used: permission was denied. Allow it beside the address, then press Camera again.",
  NotFoundError: "There is no camera. Plug one in, or choose a photo or video.",
  NotReadableError: "The camera does not answer; is another program using it?",
  OverconstrainedError: "There is no such camera.",
};

/** The camera whose name has this in it. */
async function cameraNamed(name) {
  const cameras = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
  const camera = cameras.find(({ label }) => label.toLowerCase().includes(name.toLowerCase()));
  if (camera) return { deviceId: { exact: camera.deviceId } };
  const names = cameras.map(({ label }) => `“${label}”`).join(", ");
  throw new Error(`There is no camera “${name}”; ${names ? `there is ${names}` : "there is none at all"}.`);
}

/** The camera of a name, else the one on the side that was chosen last. */
export async function openCamera(name) {
  if (!navigator.mediaDevices) {
    throw new Error("The browser gives no camera to this address: https, localhost or a local file is needed.");
  }
  const mine = ++request;
  now.touched = true;
  say("Waiting for the camera …");
  let stream;
  try {
    const which = name ? await cameraNamed(name) : { facingMode: now.facing };
    stream = await navigator.mediaDevices.getUserMedia({ video: { ...which, width: 1280, height: 720 } });
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
    if (now.source !== camera) return;
    clearSource();
    say("The camera is gone; plug it in and press Camera.");
  });
  setSource(camera);
}

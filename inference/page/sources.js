// Where pictures come from: photos, videos, the camera.

import { restartRate, showContent, want } from "./painting.js";
import { cancelSaving } from "./saving.js";
import { $, now, say, stage } from "./state.js";
import { openDropped } from "./styles.js";

let request = 0; // the latest source that was asked for counts

function setSource(next) {
  cancelSaving();
  now.recorder?.stop();
  now.source?.stop();
  now.source = next;
  const live = now.source.kind !== "photo";
  $("pause").disabled = $("pause").hidden = $("record").hidden = !live;
  $("pause").textContent = "Pause";
  $("flip").hidden = $("mirroring").hidden = now.source.kind !== "camera";
  $("snapshot").disabled = $("record").disabled = true;
  $("full_size").hidden = true;
  $("camera").textContent = now.source.kind === "camera" ? "Stop camera" : "Camera";
  now.paused = false;
  restartRate();
  stage.dataset.state = "painting";
  if (!live) showContent();
  say(now.style ? "" : "It is painted as soon as a style is here.");
  want("paint");
}

export function clearSource() {
  request++;
  cancelSaving();
  now.recorder?.stop();
  now.source?.stop();
  now.source = undefined;
  stage.dataset.state = "empty";
  $("camera").textContent = "Camera";
  $("flip").hidden = $("mirroring").hidden = $("full_size").hidden = true;
  $("pause").hidden = $("record").hidden = false;
  for (const id of ["pause", "snapshot", "record"]) $(id).disabled = true;
  $("speed").textContent = "";
}

export async function openFile(file) {
  if (!file) throw new Error("That is no file; drop a photo, a video or an .onnx file.");
  if (/\.onnx$/i.test(file.name)) {
    await openDropped(file);
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

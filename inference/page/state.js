// What the files of the page share.

export const $ = (id) => document.getElementById(id);
export const stage = $("stage"), contentCanvas = $("content"), paintingCanvas = $("painting");

export const now = {
  assets: undefined, // the styles and ONNX Runtime: from the server, or from inside a single file
  engine: undefined, // what the worker runs on
  started: undefined, // a promise: the worker is there
  source: undefined, // {kind: "photo" | "video" | "camera", element, width, height, stop}
  style: undefined, // {name, bytes, title, ...}, where one is open
  facing: "user", // the camera wanted
  recorder: undefined, // while it records
  paused: false,
  busy: false, // the worker
};

export function say(message) {
  $("message").textContent = message?.message ?? message;
}

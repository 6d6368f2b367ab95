// What the files of the page share.

export const $ = (id) => document.getElementById(id);
export const stage = $("stage"), contentCanvas = $("content"), paintingCanvas = $("painting");

export const now = {
  assets: undefined, // where the styles, ONNX Runtime and so on are: see web.py
  engine: undefined, // what the worker runs on
  started: undefined, // a promise: the worker is there
  source: undefined, // {kind: "photo" | "video" | "camera", element, width, height, stop, file of a video}
  style: undefined, // {name, bytes, title, ...}, where one is open
  facing: "user", // the camera wanted
  recorder: undefined, // while it records
  paused: false,
  strokesChosen: false, // by the user or the address; until then they are each style's own
  touched: false, // something was opened, or is being
  whyNotOffline: "",
  busy: false, // the worker
};

export function say(message) {
  $("message").textContent = message?.message ?? message;
}

/** The bar below the picture: a share of 1, null where nobody knows, nothing where there is nothing to wait for. */
export function showProgress(share) {
  const bar = $("loading");
  bar.hidden = share === undefined;
  if (share) bar.value = share;
  else bar.removeAttribute("value");
}

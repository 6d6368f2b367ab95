// What the files of the page share.

export const $ = (id) => document.getElementById(id);
export const stage = $("stage"), contentCanvas = $("content"), paintingCanvas = $("painting");

const GAP_PX = 8; // around a message

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

let pressed; // the control used last
for (const kind of ["pointerdown", "keydown"]) {
  addEventListener(kind, ({ target }) => { pressed = target.closest?.("button, label, select, input") ?? pressed; }, true);
}
let going; // the timer that takes a message away

/** A message beside the control that it answers, over everything else; it goes by itself once the page has started. */
export function say(message) {
  const box = $("message"), text = String(message?.message ?? message);
  clearTimeout(going);
  box.textContent = text;
  if (!text) return;
  const { left, top, bottom, width } = pressed?.getBoundingClientRect() ?? {};
  const { clientWidth: screenWidth, clientHeight: screenHeight } = document.documentElement;
  const beside = width && top >= 0 && bottom <= screenHeight, roomAbove = top > box.offsetHeight + GAP_PX;
  const x = beside ? left : (screenWidth - box.offsetWidth) / 2;
  const y = !beside ? screenHeight - box.offsetHeight - GAP_PX : roomAbove ? top - box.offsetHeight - GAP_PX : bottom + GAP_PX;
  box.style.setProperty("--x", `${Math.max(GAP_PX, Math.min(x, screenWidth - box.offsetWidth - GAP_PX))}px`);
  box.style.setProperty("--y", `${y}px`);
  if (document.body.dataset.ready) going = setTimeout(() => { box.textContent = ""; }, 4000 + 60 * text.length);
}

/** The bar below the picture: a share of 1, null where nobody knows, nothing where there is nothing to wait for. */
export function showProgress(share) {
  const bar = $("loading");
  bar.hidden = share === undefined;
  if (share) bar.value = share;
  else bar.removeAttribute("value");
}

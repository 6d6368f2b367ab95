// The address says which style paints, and how, so that a link or a reload paints the same: #style=the_scream&strength=80&...
// or ?style=..., where a program can give no fragment.

import { strokes } from "./painting.js";
import { $, now, say } from "./state.js";

const FINE = "fine";

export function keepAddress() {
  const said = new URLSearchParams();
  if (now.assets?.styles.some(({ name }) => name === now.style?.name)) said.set("style", now.style.name);
  said.set("strength", $("strength").value);
  said.set("colors", $("keep_color").value);
  if (now.strokesChosen) said.set("strokes", strokes() ? Number(strokes().toPrecision(3)) : FINE);
  if ($("second").value) {
    said.set("second", $("second").value);
    said.set("mix", $("mix").value);
  }
  history.replaceState(null, "", `#${said}`);
}

/** Set the sliders as the address says; returns the styles' names, where it says any. */
export function readAddress() {
  const said = new URLSearchParams(`${location.hash.slice(1)}&${location.search.slice(1)}`), size = said.get("strokes");
  move("strength", said.get("strength"));
  move("keep_color", said.get("colors"));
  move("mix", said.get("mix"));
  move("strokes", size === FINE ? $("strokes").min : size && Math.log2(size));
  return [said.get("style"), said.get("second")];
}

export async function copyLink() {
  keepAddress();
  try {
    await navigator.clipboard.writeText(location.href);
    say("The link is copied; it says styles, strength, colors and strokes.");
  } catch {
    say(`The browser does not let it be copied; here it is: ${location.href}`);
  }
}

/**
 * For OBS and its like, ?bare shows the picture alone; camera=NAME opens one by part of its name, mirror mirrors it.
 * Returns the name, null where no camera is asked for.
 */
export function readBare() {
  const said = new URLSearchParams(location.search), bare = said.has("bare");
  document.documentElement.classList.toggle("bare", bare);
  if (bare) $("mirror").checked = said.has("mirror");
  return bare ? said.get("camera") : null;
}

/** The slider itself keeps a number inside, and at a step. */
function move(slider, value) {
  if (value === null || value === "" || !Number.isFinite(Number(value))) return;
  $(slider).value = value;
  $(slider).dispatchEvent(new Event("input"));
}

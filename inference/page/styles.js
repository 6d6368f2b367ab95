// Which style paints.

import { keepAddress } from "./address.js";
import { ask, startWithoutGpu } from "./engine.js";
import { idle, want } from "./painting.js";
import { cancelSaving } from "./saving.js";
import { $, now, say, stage } from "./state.js";

/** A style's file for this machine, unless the user says otherwise: int8 for CPUs. fp16 is faster on GPUs, but nobody has seen
 * yet what browsers make of it there, and a wrong picture comes without an error. */
function fileOf(entry) {
  const auto = now.engine.provider === "webgpu" ? "fp32" : "int8";
  const wanted = $("precision").value === "auto" ? auto : $("precision").value;
  return entry.files[wanted] ?? entry.files.fp32;
}

export function listStyles() {
  const choices = now.assets.styles.map((entry, i) => {
    const label = document.createElement("label"), input = document.createElement("input"), image = new Image();
    Object.assign(input, { type: "radio", name: "style", value: i });
    Object.assign(image, { src: entry.thumbnail, alt: "" });
    label.append(input, image, entry.title);
    input.addEventListener("change", () => choose(entry).then(keepAddress));
    return label;
  });
  $("choices").replaceChildren(...choices);
}

let choice = 0; // the latest one counts, however long an earlier one takes to arrive

const EXAMPLE = "starry_night"; // what example.jpg is painted with

/** The style of this name, or the example's, unless an .onnx file was dropped before. */
export async function chooseFirst(name) {
  if (choice > 0 || !now.assets.styles.length) return;
  const { styles } = now.assets, named = (wanted) => styles.find((each) => each.name === wanted);
  const entry = named(name) ?? named(EXAMPLE) ?? styles[0];
  reveal(entry);
  await choose(entry);
  if (name && entry.name !== name) say(`There is no style “${name}” here.`);
}

export async function chooseNamed(name) {
  const entry = now.assets?.styles.find((each) => each.name === name);
  if (!entry || name === now.style?.name) return;
  reveal(entry);
  await choose(entry);
}

/** Scroll the list, and not the page, to a style. */
function reveal(entry) {
  const { offsetLeft, offsetTop } = $("choices").children[now.assets.styles.indexOf(entry)];
  $("choices").scrollTo(offsetLeft, offsetTop);
}

async function choose(entry) {
  const mine = ++choice;
  mark(entry.name);
  try {
    const bytes = await now.assets.read(fileOf(entry));
    if (mine === choice) await openStyle(bytes, entry.name);
  } catch (error) {
    mark(now.style?.name); // that is open
    say(error);
  }
}

export async function openDropped(file) {
  choice++;
  await now.started;
  await openStyle(new Uint8Array(await file.arrayBuffer()), file.name);
}

function mark(name) {
  document.querySelectorAll("#choices input").forEach((input, i) => {
    input.checked = now.assets.styles[i].name === name;
  });
}

let opening = Promise.resolve();

/** Styles are opened one after the other, however fast somebody clicks. */
function openStyle(bytes, name) {
  const task = opening.catch(() => {}).then(async () => {
    if (bytes.length < 16) throw new Error(`${name} is too small for an .onnx file`);
    stage.dataset.state = now.source ? "painting" : "empty";
    const previous = now.style;
    now.style = undefined; // nothing is painted meanwhile
    cancelSaving();
    await idle();
    try {
      const { contract } = await opened(bytes, previous).catch((error) => {
        throw new Error(`${name} ${error.refused ? error.message : `cannot be opened: ${error.message}`}`);
      });
      now.style = { name, bytes, ...contract };
    } catch (error) {
      now.style = previous;
      throw error;
    } finally {
      mark(now.style?.name); // that is open
      want("paint");
    }
    say("");
    const who = [now.style.painter, now.style.year, now.style.license].filter(Boolean).join(", ");
    $("card").textContent = `“${now.style.title || name}”${who ? ` – ${who}` : ""}; ${now.style.precision}${now.engine.provider === "webgpu" && !now.style.onGpu ? " on the CPU, not made for this GPU" : ""}`;
  });
  opening = task;
  return task;
}

/** Open in the worker; where WebGPU fails, start anew without it. If that fails, too, the style before is open again. */
async function opened(bytes, previous) {
  try {
    return await ask("open", { bytes });
  } catch (error) {
    if (now.engine.provider !== "webgpu" || error.refused) throw error;
    await startWithoutGpu(error);
    try {
      return await ask("open", { bytes });
    } catch (again) {
      if (previous) await ask("open", { bytes: previous.bytes });
      throw again;
    }
  }
}

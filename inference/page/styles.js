// Which style paints.

import { keepAddress } from "./address.js";
import { ask, forgetSecond, read, startWithoutGpu } from "./engine.js";
import { abandon, idle, want } from "./painting.js";
import { isSaving } from "./saving.js";
import { $, now, say, showProgress, stage } from "./state.js";

/** The precisions to try, the fastest first; each paints a test picture before it paints anything else. */
function precisions(entry) {
  const { provider, half } = now.engine, chosen = $("precision").value;
  const auto = [provider === "wasm" ? "int8" : half ? "fp16" : "fp32", "fp32"];
  const wanted = (chosen === "auto" ? auto : [chosen]).filter((each) => entry.files[each]);
  return wanted.length ? [...new Set(wanted)] : [Object.keys(entry.files)[0]];
}

export function listStyles() {
  const choices = now.assets.styles.map((entry, i) => {
    const label = document.createElement("label"), input = document.createElement("input");
    const pictures = [entry.painting, entry.picture].filter(Boolean).map((src) => Object.assign(new Image(), { src, alt: "" }));
    Object.assign(input, { type: "radio", name: "style", value: i });
    const title = Object.assign(document.createElement("span"), { textContent: entry.title });
    label.append(input, ...pictures, title);
    input.addEventListener("change", () => choose(entry).then(keepAddress));
    return label;
  });
  $("choices").replaceChildren(...choices);
  $("choices").addEventListener("scroll", showMore, { passive: true });
  new ResizeObserver(showMore).observe($("choices"));
  $("second").append(...now.assets.styles.map(({ title, name }) => new Option(title, name)));
}

/** The list fades where it goes on. */
function showMore() {
  const list = $("choices"), { scrollLeft, scrollTop } = list;
  const left = list.scrollWidth - list.clientWidth - scrollLeft, below = list.scrollHeight - list.clientHeight - scrollTop;
  list.classList.toggle("more_before", scrollLeft + scrollTop > 8);
  list.classList.toggle("more_after", left + below > 8);
}

const showShare = (done, all) => showProgress(all ? done / all : null);

let choice = 0; // the latest one counts, however long an earlier one takes to arrive

/** The style of this name, or the first one, unless an .onnx file was dropped before; and the one to be mixed in. */
export async function chooseFirst(name, second) {
  if (choice > 0 || !now.assets.styles.length) return;
  const { styles } = now.assets, named = (wanted) => styles.find((each) => each.name === wanted);
  const entry = named(name) ?? styles[0];
  if (name) reveal(entry);
  await choose(entry);
  await mixIn(second);
  if (name && entry.name !== name) say(`There is no style “${name}” here.`);
}

export async function chooseNamed(name, second) {
  const entry = now.assets?.styles.find((each) => each.name === name);
  if (entry && name !== now.style?.name) {
    reveal(entry);
    await choose(entry);
  }
  if (entry) await mixIn(second);
}

/** The second style as an address says it: null for none. */
async function mixIn(name) {
  const before = $("second").value;
  $("second").value = now.assets.styles.some((each) => each.name === name) ? name : "";
  if ($("second").value !== before) await chooseSecond();
}

/** Scroll the list, and not the page, to a style. */
function reveal(entry) {
  const { offsetLeft, offsetTop } = $("choices").children[now.assets.styles.indexOf(entry)];
  $("choices").scrollTo(offsetLeft, offsetTop);
}

async function choose(entry) {
  const mine = ++choice, isWanted = () => mine === choice;
  mark(entry.name);
  abandon();
  try {
    await now.started;
    await openBest(entry, isWanted, (bytes, expected) => openStyle(bytes, entry.name, expected, isWanted), showShare);
  } catch (error) {
    mark(now.style?.name); // that is open
    want("paint");
    say(error);
  } finally {
    showProgress();
  }
}

/** Open a style in the best precision that is computed rightly here, unless it is no longer wanted. */
async function openBest(entry, isWanted, open, report) {
  const expected = read(entry.check);
  for (const [i, precision] of precisions(entry).entries()) {
    const [bytes, levels] = await Promise.all([read(entry.files[precision], report), expected]);
    if (!isWanted()) return;
    const wrong = await open(bytes, levels).then(() => undefined, (error) => error);
    if (!wrong) return;
    if (wrong.kind !== "wrong" || i + 1 === precisions(entry).length) throw wrong;
  }
}

let secondChoice = 0; // the latest one counts

/** The style to be mixed in, or none. */
export async function chooseSecond() {
  const entry = now.assets.styles.find(({ name }) => name === $("second").value);
  $("mix").disabled = !entry;
  const mine = ++secondChoice;
  try {
    const open = (bytes, expected) => alone(() => ask("open", { bytes, place: 1, expected }));
    await (entry ? openBest(entry, () => mine === secondChoice, open) : alone(() => ask("release", { place: 1 })));
  } catch (error) {
    if (mine === secondChoice) forgetSecond();
    say(`${entry.title} cannot be mixed in: ${error.message}`);
  }
  keepAddress();
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

let opening = Promise.resolve(), queued = 0;

/**
 * One after the other, however fast somebody clicks, and while nothing is painted. What is not wanted any more when its turn
 * comes is left out, and nothing is painted before the last one.
 * @param {() => Promise<object?>} open returns the style, if it is another
 */
function alone(open, isWanted = () => true) {
  queued += 1;
  const task = opening.catch(() => {}).then(async () => {
    queued -= 1;
    if (!isWanted()) return;
    if (isSaving()) say("That style is next, when what is being saved is done. Cancel stops it.");
    while (isSaving()) await idle();
    stage.dataset.state = now.source ? "painting" : "empty";
    const previous = now.style;
    now.style = undefined; // nothing is painted meanwhile
    await idle();
    try {
      now.style = (await open(previous))?.style ?? previous;
    } catch (error) {
      now.style = previous;
      throw error;
    } finally {
      if (!queued) {
        mark(now.style?.name); // that is open
        want("paint");
      }
    }
  });
  opening = task;
  return task;
}

/** The slider goes to the size that suits the style. */
function suitStrokes(style) {
  $("strokes").value = Math.log2(style.strokes);
  $("strokes").dispatchEvent(new Event("input"));
  now.strokesChosen = false;
}

/** @param {Uint8Array?} expected what it must paint of the worker's test picture */
async function openStyle(bytes, name, expected, isWanted = () => true) {
  if (bytes.length < 16) throw new Error(`${name} is too small for an .onnx file`);
  let style;
  await alone(async (previous) => {
    const { contract } = await opened(bytes, expected, previous).catch((error) => {
      const why = error.kind ? error.message : `cannot be opened: ${error.message}`;
      throw Object.assign(new Error(`${name} ${why}`), { kind: error.kind });
    });
    style = { name, bytes, ...contract };
    if (!now.strokesChosen) suitStrokes(style);
    return { style };
  }, isWanted);
  if (!style) return;
  say("");
  const who = [style.painter, style.year, style.license].filter(Boolean).join(", ");
  $("card").textContent = `“${style.title || name}”${who ? ` – ${who}` : ""}`;
  const elsewhere = now.engine.provider === "webgpu" && !style.onGpu ? " on the CPU, not made for this GPU" : "";
  $("network").textContent = `The network is ${style.precision}${elsewhere}.`;
}

/** Open in the worker; where WebGPU fails, start anew without it. If that fails, too, the style before is open again. */
async function opened(bytes, expected, previous) {
  try {
    return await ask("open", { bytes, expected, place: 0 });
  } catch (error) {
    if (now.engine.provider !== "webgpu" || error.kind) throw error;
    await startWithoutGpu(error);
    try {
      return await ask("open", { bytes, expected, place: 0 });
    } catch (again) {
      if (previous) await ask("open", { bytes: previous.bytes, place: 0 });
      throw again;
    }
  }
}

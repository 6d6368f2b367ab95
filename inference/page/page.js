// The page: its controls and its start.

import { copyLink, keepAddress, readAddress, readBare } from "./address.js";
import { findAssets, showEngine, startWorker } from "./engine.js";
import { placeDivider, strokes, want } from "./painting.js";
import { saveFullSize, snapshot, toggleRecording } from "./saving.js";
import { clearSource, openCamera, openFile } from "./sources.js";
import { $, now, paintingCanvas, say, stage } from "./state.js";
import { chooseFirst, chooseNamed, listStyles } from "./styles.js";

function compareAt(event) {
  const { width, height } = paintingCanvas;
  const box = stage.getBoundingClientRect();
  const shown = Math.min(box.width, (box.height * width) / height);
  const share = (event.clientX - box.left - (box.width - shown) / 2) / shown;
  $("compare").value = Math.round(100 * Math.min(Math.max(share, 0), 1));
  $("compare").dispatchEvent(new Event("input"));
}

/** A slider's value in words, for eyes and ears. */
function tell(slider, words) {
  slider.nextElementSibling.textContent = words;
  slider.setAttribute("aria-valuetext", words);
}

function togglePause() {
  now.paused = !now.paused;
  $("pause").textContent = now.paused ? "Go on" : "Pause";
  now.paused ? now.source.element.pause() : now.source.element.play().catch(say);
  if (!now.paused) want("paint");
}

function connectControls() {
  $("camera").addEventListener("click", () => (now.source?.kind === "camera" ? clearSource() : openCamera().catch(say)));
  $("flip").addEventListener("click", () => {
    now.facing = now.facing === "user" ? "environment" : "user";
    now.source.stop(); // phones open one at a time
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
      tell(target, `${target.value} %`);
      if (id === "compare") placeDivider();
      else if (stage.dataset.state === "painted") want("mix");
    });
  }
  for (const id of ["strength", "keep_color", "strokes"]) $(id).addEventListener("change", keepAddress);
  addEventListener("hashchange", () => chooseNamed(readAddress()));
  $("strokes").addEventListener("input", ({ target }) => {
    const size = strokes();
    tell(target, size ? `${Number(size.toPrecision(2))} ×` : "fine");
    want("paint");
  });
  $("size").addEventListener("change", () => want("paint"));
  $("mirror").addEventListener("change", () => want("paint"));
  $("precision").addEventListener("change", () => document.querySelector("#choices input:checked")?.dispatchEvent(new Event("change")));
  $("pause").addEventListener("click", togglePause);
  $("snapshot").addEventListener("click", snapshot);
  $("full_size").addEventListener("click", saveFullSize);
  $("record").addEventListener("click", toggleRecording);
  $("copy_link").addEventListener("click", copyLink);
  addEventListener("keydown", (event) => {
    const button = { " ": "pause", s: "snapshot", r: "record" }[event.key];
    const typing = event.target.closest?.(event.key === " " ? "input, select, button, label" : "select");
    if (!button || !$("keys").checked || typing || event.repeat || event.ctrlKey || event.metaKey || event.altKey || $(button).disabled) return;
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

async function start() {
  $("backend").textContent = "Starting …";
  const camera = readBare();
  connectControls();
  now.started = startEngine();
  await now.started;
  listStyles();
  await chooseFirst(readAddress());
  if (camera !== null) await openCamera(camera).catch(say);
  document.body.dataset.ready = "true";
}

async function startEngine() {
  now.assets = await findAssets();
  const backend = new URLSearchParams(location.search).get("backend") ?? "auto";
  await startWorker(backend).catch(async (error) => {
    if (backend === "wasm") throw error;
    await startWorker("wasm");
    now.engine.whyNot = `it failed (${error.message})`;
    showEngine();
  });
}

start().catch((error) => {
  $("backend").textContent = "Not working";
  say(`The page cannot start: ${error.message}`);
});

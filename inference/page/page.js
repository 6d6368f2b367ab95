// The page: its controls and its start.

import { copyLink, keepAddress, readAddress, readBare } from "./address.js";
import { findAssets, startWithoutGpu, startWorker } from "./engine.js";
import { saveWholeVideo, toggleRecording } from "./filming.js";
import { keepOffline } from "./offline.js";
import { painted, placeDivider, strokes, want } from "./painting.js";
import { saveFullSize, share, snapshot, unfinished } from "./saving.js";
import { clearSource, offerSamples, openCamera, openFiles, turn } from "./sources.js";
import { $, now, paintingCanvas, say, stage } from "./state.js";
import { chooseFirst, chooseNamed, chooseSecond, listStyles } from "./styles.js";

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
  $("pause").textContent = now.paused ? "Resume" : "Pause";
  now.paused ? now.source.element.pause() : now.source.element.play().catch(say);
  want("paint"); // where it stopped, too
}

function toggleFullscreen() {
  return document.fullscreenElement ? document.exitFullscreen() : $("picture").requestFullscreen();
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
      openFiles([...target.files]).catch(say);
      target.value = ""; // the same file may be chosen again
    });
  }
  for (const id of ["strength", "keep_color", "compare", "mix"]) {
    $(id).addEventListener("input", ({ target }) => {
      tell(target, `${target.value} %`);
      if (id === "compare") placeDivider();
      else if (stage.dataset.state === "painted") want("mix");
    });
  }
  for (const id of ["strength", "keep_color", "strokes", "mix"]) $(id).addEventListener("change", keepAddress);
  addEventListener("hashchange", () => chooseNamed(...readAddress()));
  $("strokes").addEventListener("input", ({ target }) => {
    const size = strokes();
    now.strokesChosen = true;
    tell(target, size ? `${Number(size.toPrecision(2))} ×` : "fine");
    want("paint");
  });
  $("size").addEventListener("change", () => want("paint"));
  $("mirror").addEventListener("change", () => want("paint"));
  $("precision").addEventListener("change", () => document.querySelector("#choices input:checked")?.dispatchEvent(new Event("change")));
  $("second").addEventListener("change", chooseSecond);
  const buttons = {
    pause: togglePause,
    snapshot,
    share_picture: share,
    full_size: saveFullSize,
    record: toggleRecording,
    film: saveWholeVideo,
    fullscreen: toggleFullscreen,
    copy_link: copyLink,
    earlier: () => turn(-1),
    later: () => turn(1),
  };
  for (const id in buttons) $(id).addEventListener("click", () => Promise.resolve(buttons[id]()).catch(say));
  $("share_picture").hidden = !navigator.share;
  $("fullscreen").hidden = !document.fullscreenEnabled;
  addEventListener("keydown", (event) => {
    const button = { " ": "pause", s: "snapshot", r: "record", f: "fullscreen" }[event.key];
    const typing = event.target.closest?.(event.key === " " ? "input, select, button, label" : "select");
    if (!button || !$("keys").checked || typing || event.repeat || event.ctrlKey || event.metaKey || event.altKey || $(button).disabled) return;
    event.preventDefault();
    $(button).click();
  });
  $("divider").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -5, ArrowDown: -5, ArrowRight: 5, ArrowUp: 5, Home: -100, End: 100 }[event.key];
    if (!step) return;
    event.preventDefault(); // it would scroll the page
    $("compare").value = Number($("compare").value) + step;
    $("compare").dispatchEvent(new Event("input"));
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
      if (kind === "drop") openFiles([...event.dataTransfer.files]).catch(say);
    });
  }
  addEventListener("paste", ({ clipboardData }) => {
    if (clipboardData.files.length) openFiles([...clipboardData.files]).catch(say);
  });
  addEventListener("beforeunload", (event) => {
    if (unfinished()) event.preventDefault();
  });
}

async function start() {
  $("backend").textContent = "Starting …";
  const camera = readBare();
  now.assets = findAssets();
  listStyles();
  connectControls();
  now.started = keepOffline().then(startEngine);
  await now.started;
  await chooseFirst(...readAddress());
  if (camera !== null) await openCamera(camera).catch(say);
  else await offerSamples().then(painted);
  document.body.dataset.ready = "true";
}

async function startEngine() {
  const backend = new URLSearchParams(location.search).get("backend") ?? "auto";
  await startWorker(backend).catch((error) => {
    if (backend === "wasm") throw error;
    return startWithoutGpu(error);
  });
}

start().catch((error) => {
  $("backend").textContent = "Not working";
  say(`The page cannot start: ${error.message}`);
});

// Films out: recordings of what is painted now, and whole videos, painted picture by picture.

import { ask, moduleAddress } from "./engine.js";
import { grabbed, mixture, show, strokes, want, workSize } from "./painting.js";
import { keepBusy, reporter, save } from "./saving.js";
import { $, now, paintingCanvas, say } from "./state.js";

const BITS_A_SECOND = 8e6;
const FILM_PIXELS = { webgpu: 1280 * 720, wasm: 960 * 540 }; // of a whole video, where the user leaves it open

const PATIENCE_MS = 1000; // with a machine's sound

/** The largest even size: what H.264 takes. */
const even = (side) => Math.max(2, side - (side % 2));

/** Films what is painted, at the size of its beginning, whatever size is painted later. */
class Recorder {
  /** @param {{tracks: MediaStreamTrack[], stop: () => void}} sound */
  constructor(kind, sound) {
    const [width, height] = [even(paintingCanvas.width), even(paintingCanvas.height)];
    this.canvas = Object.assign(document.createElement("canvas"), { width, height });
    this.context = this.canvas.getContext("2d");
    this.sound = sound;
    const parts = [];
    const stream = new MediaStream([...this.canvas.captureStream().getTracks(), ...sound.tracks]);
    this.media = new MediaRecorder(stream, { mimeType: kind, videoBitsPerSecond: BITS_A_SECOND });
    this.media.addEventListener("dataavailable", ({ data }) => parts.push(data));
    this.media.addEventListener("stop", () => {
      stream.getTracks().forEach((track) => track.stop());
      sound.stop();
      const film = new Blob(parts, { type: kind });
      if (film.size) save(film, kind.startsWith("video/mp4") ? "mp4" : "webm");
      else say("Nothing was painted while it recorded.");
    });
    this.media.start(1000);
    this.put();
  }

  put() {
    const { width, height } = this.canvas;
    const scale = Math.min(width / paintingCanvas.width, height / paintingCanvas.height);
    const [w, h] = [paintingCanvas.width * scale, paintingCanvas.height * scale];
    this.context.fillRect(0, 0, width, height);
    this.context.drawImage(paintingCanvas, (width - w) / 2, (height - h) / 2, w, h);
  }

  stop() {
    now.recorder = undefined;
    $("record").textContent = "Record";
    delete $("record").dataset.on;
    if (this.media.state !== "inactive") this.media.stop();
  }
}

const WITH_SOUND = ["video/mp4;codecs=avc1.42E01F,mp4a.40.2", "video/mp4;codecs=avc1.42E01F,opus", "video/webm;codecs=vp9,opus", "video/webm;codecs=vp8,opus"];
const SILENT = ["video/mp4;codecs=avc1.42E01F", "video/webm;codecs=vp9", "video/webm"];

let starting = false;

export async function toggleRecording() {
  if (now.recorder) return now.recorder.stop();
  if (starting) return;
  starting = true;
  await record().finally(() => { starting = false; });
}

async function record() {
  const { source } = now, sound = await soundOf(source);
  const kinds = sound.tracks.length ? WITH_SOUND : SILENT;
  const kind = globalThis.MediaRecorder && kinds.find((each) => MediaRecorder.isTypeSupported(each));
  if (!kind || now.source !== source) {
    sound.stop();
    if (!kind) say("This browser cannot record.");
    return;
  }
  now.recorder = new Recorder(kind, sound);
  $("record").textContent = "Stop recording";
  $("record").dataset.on = "";
}

/** A video's own sound, or the microphone's, if that is wanted: {tracks, stop}. */
async function soundOf(source) {
  const none = { tracks: [], stop() {} };
  if (source.kind === "camera") {
    if (!$("microphone").checked) return none;
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true }).catch((error) => {
      say(`The recording is silent, as there is no microphone: ${error.message}`);
    });
    return stream ? { tracks: stream.getAudioTracks(), stop: () => stream.getTracks().forEach((track) => track.stop()) } : none;
  }
  const video = source.element;
  if (!hasSound(video)) return none;
  // From here on the video plays into the recording, and not into the room.
  if (!source.sound) {
    const context = new AudioContext();
    source.sound = { context, node: context.createMediaElementSource(video), listeners: 0 };
  }
  const { sound } = source, { context, node } = sound, out = context.createMediaStreamDestination();
  await Promise.race([context.resume(), new Promise((resolve) => setTimeout(resolve, PATIENCE_MS))]);
  if (context.state !== "running") {
    say("The recording is silent, as there is nothing here that plays sound.");
    return none;
  }
  node.connect(out);
  video.muted = false;
  sound.listeners += 1;
  const stop = () => {
    sound.listeners -= 1;
    video.muted = sound.listeners === 0; // the next recording may have begun
    node.disconnect(out);
  };
  return { tracks: out.stream.getAudioTracks(), stop };
}

/** Each browser has its own way to say it. */
function hasSound({ mozHasAudio, webkitAudioDecodedByteCount, audioTracks }) {
  return mozHasAudio ?? (webkitAudioDecodedByteCount === undefined ? audioTracks?.length !== 0 : webkitAudioDecodedByteCount > 0);
}

/** Paint a video from its first picture to its last, however long that takes, and save it with its sound. */
export function saveWholeVideo() {
  return keepBusy($("film"), async (mine) => {
    const { source } = now;
    source.element.pause();
    try {
      return await paintVideo(source, mine, { strokes: strokes(), ...mixture() });
    } finally {
      if (now.source === source) {
        if (!now.paused) await source.element.play();
        want("paint");
      }
    }
  });
}

async function paintVideo({ file }, mine, how) {
  const films = await import(await moduleAddress(now.assets.films));
  const { BufferTarget, Conversion, Output, Quality, getFirstEncodableVideoCodec } = films;
  const input = new films.Input({ formats: films.ALL_FORMATS, source: new films.BlobSource(file) });
  const track = await input.getPrimaryVideoTrack();
  if (!track || !(await track.canDecode())) throw new Error("This browser cannot read the video picture by picture; record it instead");
  const [width, height] = workSize(track.displayWidth, track.displayHeight, FILM_PIXELS[now.engine.provider]).map(even);
  const size = { width, height };
  const h264 = await getFirstEncodableVideoCodec(["avc"], size);
  const codec = h264 ?? (await getFirstEncodableVideoCodec(["vp9", "vp8"], size));
  if (!codec) throw new Error("This browser cannot write a video; record it instead");
  const format = h264 ? new films.Mp4OutputFormat() : new films.WebMOutputFormat();
  const output = new Output({ format, target: new BufferTarget() });
  const process = async (sample) => {
    const picture = grabbed(width, height, false, (context) => sample.draw(context, 0, 0, width, height));
    const result = await ask("paint", { pixels: picture.data, ...size, ...how });
    if (mine.cancelled) return null; // another picture may be shown by now
    show(result, picture);
    return paintingCanvas;
  };
  const quality = new Quality("very-high"); // strokes are all detail
  const video = { ...size, fit: "fill", codec, quality, forceTranscode: true, allowTransformationMetadata: false, process };
  const conversion = await Conversion.init({ input, output, tracks: "primary", video });
  if (!conversion.isValid) throw new Error("This browser cannot paint such a video whole; record it instead");
  conversion.onProgress = reporter(`Whole video, ${width} × ${height} px`);
  mine.cancel = () => conversion.cancel();
  if (mine.cancelled) return undefined;
  await conversion.execute();
  save(new Blob([output.target.buffer], { type: output.format.mimeType }), h264 ? "mp4" : "webm");
  const silent = conversion.discardedTracks.some((each) => each.track.type === "audio");
  return `The whole video is saved${silent ? ", without its sound, which this browser cannot write" : ""}.`;
}

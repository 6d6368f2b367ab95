// README's snippet for the browser. The page's address names the frame file and the photo: ?style=...&photo=...

const { style, photo } = Object.fromEntries(new URL(location).searchParams);
const canvas = document.querySelector("canvas");
const bitmap = await createImageBitmap(await (await fetch(photo)).blob());
[canvas.width, canvas.height] = [bitmap.width, bitmap.height];
canvas.getContext("2d").drawImage(bitmap, 0, 0);

// README begins
import * as ort from "onnxruntime-web";

const session = await ort.InferenceSession.create(style); // once; style is the file's address

async function paint(canvas) {
  const { width, height } = canvas, context = canvas.getContext("2d");
  const pixels = context.getImageData(0, 0, width, height); // RGBA
  const rgb = pixels.data.filter((_, i) => i % 4 < 3);
  const frame = new ort.Tensor("uint8", new Uint8Array(rgb.buffer), [1, height, width, 3]);
  const { stylized_frame: { data } } = await session.run({ content_frame: frame });
  for (let i = 0, j = 0; j < data.length; i += 4, j += 3) pixels.data.set(data.subarray(j, j + 3), i);
  context.putImageData(pixels, 0, 0);
}
// README ends

await paint(canvas);
document.title = "painted";

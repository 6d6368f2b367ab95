// onnxruntime-node for measure.py: a request a line on stdin, the milliseconds as a line on stdout. Where the request has
// "optional", the answer is what comes of feeding the optional input strength; where it has "rgb", a file of plain pixels,
// the painting's pixels, base64.
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import * as ort from "onnxruntime-node";

const sessions = {};

function feeds(flavor, rgb, height, width) {
  const size = height * width;
  if (flavor.endsWith("frame")) return { content_frame: new ort.Tensor("uint8", rgb, [1, height, width, 3]) };
  const planes = new Float32Array(3 * size);
  for (let i = 0; i < size; i++) for (let c = 0; c < 3; c++) planes[c * size + i] = rgb[3 * i + c] / 255;
  return { content_image: new ort.Tensor("float32", planes, [1, 3, height, width]) };
}

function pixels(results) {
  if (results.stylized_frame) return results.stylized_frame.data;
  const planes = results.stylized_image.data, size = planes.length / 3;
  return Uint8Array.from(planes, (_, i) => Math.round(255 * planes[(i % 3) * size + Math.floor(i / 3)]));
}

for await (const line of createInterface({ input: process.stdin })) {
  const { folder, flavor, height, width, warm, times, optional, rgb: file } = JSON.parse(line);
  if (!(flavor in sessions)) {
    const session = await ort.InferenceSession.create(`${folder}/${flavor}.onnx`, { logSeverityLevel: 3 });
    const noise = () => Uint8Array.from({ length: 3 * height * width }, (_, i) => (i * 2654435761) >>> 24);
    const rgb = file ? await readFile(file) : noise();
    sessions[flavor] = [session, feeds(flavor, rgb, height, width)];
  }
  const [session, content] = sessions[flavor];
  if (optional) {
    const strength = new ort.Tensor("float32", [0], []); // which gives the content back, where it counts
    const same = (results) => results.stylized_frame.data.every((level, i) => level === content.content_frame.data[i]);
    const answer = (results) => (same(results) ? "taken" : "ignored");
    console.log(JSON.stringify(await session.run({ ...content, strength }).then(answer, (error) => error.message)));
    continue;
  }
  if (file) {
    console.log(JSON.stringify(Buffer.from(pixels(await session.run(content))).toString("base64")));
    continue;
  }
  const results = [];
  for (let i = 0; i < warm + times; i++) {
    const began = performance.now();
    await session.run(content);
    if (i >= warm) results.push(performance.now() - began);
  }
  console.log(JSON.stringify(results));
}

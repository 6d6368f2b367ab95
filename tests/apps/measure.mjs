// onnxruntime-node for measure.py: a request a line on stdin, the milliseconds as a line on stdout. Where the request has
// "optional", the answer is what comes of feeding the optional input strength; where it has "rgb", a file of plain pixels,
// the painting's pixels, base64.
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import * as ort from "onnxruntime-node";
import { feeds, noise, pixels, timed } from "./tensors.mjs";

const sessions = {};

for await (const line of createInterface({ input: process.stdin })) {
  const { folder, flavor, height, width, warm, times, optional, rgb: file, weights } = JSON.parse(line);
  if (!(flavor in sessions)) {
    const session = await ort.InferenceSession.create(`${folder}/${flavor}.onnx`, { logSeverityLevel: 3 });
    const rgb = file ? await readFile(file) : noise(height, width);
    sessions[flavor] = [session, feeds(ort, flavor, rgb, height, width, weights)];
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
  console.log(JSON.stringify(await timed(session, content, warm, times)));
}

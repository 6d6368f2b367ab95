// onnxruntime-node for measure.py: one request per line on stdin, the milliseconds as a line on stdout. If the request has
// "optional", the answer tells what became of the optional input strength; if it has "rgb", a file of raw pixels, the answer
// is the painting's pixels in base64.
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
    const strength = new ort.Tensor("float32", [0], []); // returns the content, if it is used
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

// README's snippet for Node. Arguments: a frame file, the photo, where the painting goes.

// README begins
import * as ort from "onnxruntime-node";
import sharp from "sharp";

const [style, photo, painting] = process.argv.slice(2);
const session = await ort.InferenceSession.create(style); // once
const pixels = sharp(photo).rotate().toColorspace("srgb").removeAlpha().raw(); // rotate() turns it upright
const { data, info: { width, height } } = await pixels.toBuffer({ resolveWithObject: true });
const frame = new ort.Tensor("uint8", data, [1, height, width, 3]);
const { stylized_frame } = await session.run({ content_frame: frame });
await sharp(stylized_frame.data, { raw: { width, height, channels: 3 } }).toFile(painting);
// README ends

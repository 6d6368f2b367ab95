// Shared by measure.mjs (Node) and measure.html (browser): pixels to and from a style's tensors, and timing.

export function feeds(ort, flavor, rgb, height, width, mix) {
  const size = height * width;
  const weights = mix && { weights: new ort.Tensor("float32", Float32Array.from(mix), [mix.length]) };
  if (flavor.endsWith("frame")) return { content_frame: new ort.Tensor("uint8", rgb, [1, height, width, 3]), ...weights };
  const planes = new Float32Array(3 * size);
  for (let i = 0; i < size; i++) for (let c = 0; c < 3; c++) planes[c * size + i] = rgb[3 * i + c] / 255;
  return { content_image: new ort.Tensor("float32", planes, [1, 3, height, width]), ...weights };
}

export function pixels(results) {
  if (results.stylized_frame) return results.stylized_frame.data;
  const planes = results.stylized_image.data, size = planes.length / 3;
  return Uint8Array.from(planes, (_, i) => Math.round(255 * planes[(i % 3) * size + Math.floor(i / 3)]));
}

/** Any pixels will do for timing. */
export const noise = (height, width) => Uint8Array.from({ length: 3 * height * width }, (_, i) => (i * 2654435761) >>> 24);

/** Milliseconds of each run after the `warm` first ones. */
export async function timed(session, content, warm, times) {
  const results = [];
  for (let i = 0; i < warm + times; i++) {
    const began = performance.now();
    await session.run(content);
    if (i >= warm) results.push(performance.now() - began);
  }
  return results;
}

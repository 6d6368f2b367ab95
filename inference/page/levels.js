// Strokes that belong to the picture, coarse to fine: inference/levels.py once more, where the reasons are. A picture is
// {pixels, width, height}, its pixels RGBA in a Uint8ClampedArray, which rounds and clips what is put into it.

export const STROKES_PIXELS = 768 * 576;
const MIN_FINER = 1.2;
const OWN = 0.25;
const MAX_GAIN = 2;

/** The sizes to paint a picture at, [height, width], the last its own; strokes 0 is one pass. */
export function levelSizes(height, width, strokes) {
  const finer = strokes * Math.sqrt((height * width) / STROKES_PIXELS);
  const steps = finer >= MIN_FINER ? Math.max(1, Math.ceil(Math.log2(finer) - 0.5)) : 0;
  const scales = Array.from({ length: steps }, (_, step) => finer ** (step / steps) / finer);
  const sizes = scales.map((scale) => [height, width].map((side) => Math.max(1, Math.round(side * scale))));
  return [...sizes, [height, width]];
}

/**
 * Paint a picture coarse to fine.
 * @param {(picture: object) => Promise<object>} paint what the network makes of a picture, a new one of the same size
 */
export async function paintLevels(content, strokes, paint) {
  const contents = [content];
  for (const size of levelSizes(content.height, content.width, strokes).slice(0, -1).reverse()) {
    contents.unshift(scaled(contents[0], ...size));
  }
  let painting = await paint(contents[0]);
  while (contents.length > 1) {
    const finer = await paint(withDetail(painting, contents.shift(), contents[0]));
    held(finer, painting);
    painting = finer;
  }
  return painting;
}

/** What a level's network is to paint: the painting of the level before, enlarged, with the photo's detail. */
function withDetail(coarse, coarseContent, content) {
  const toPaint = blank(content.width, content.height);
  const unseen = new Int16Array(coarse.pixels.length);
  for (let i = 0; i < unseen.length; i++) unseen[i] = coarse.pixels[i] - coarseContent.pixels[i];
  fill(toPaint, resized(unseen, coarse, content), (value, i) => content.pixels[i] + value);
  return toPaint;
}

/** Hold a level's painting to the one of the level before; it is changed itself. */
function held(finer, coarse) {
  const small = scaled(finer, coarse.height, coarse.width);
  const own = statistics(small), wanted = statistics(coarse);
  const gain = own.map(({ std }, c) => Math.min(Math.max((wanted[c].std + 1) / (std + 1), 1 / MAX_GAIN), MAX_GAIN));
  const shift = own.map(({ mean }, c) => wanted[c].mean - gain[c] * mean);
  // The coarse palette's level for each level of each channel.
  const levels = gain.map((factor, c) => Uint8ClampedArray.from({ length: 256 }, (_, level) => factor * level + shift[c]));
  const drift = new Int16Array(coarse.pixels.length);
  for (let i = 0; i < drift.length; i++) {
    if (i % 4 < 3) drift[i] = Math.round((1 - OWN) * (coarse.pixels[i] - levels[i % 4][small.pixels[i]]));
  }
  fill(finer, resized(drift, coarse, finer), (value, i, c) => levels[c][finer.pixels[i]] + value);
}

/** Mean and deviation of red, green and blue. */
function statistics({ pixels }) {
  return [0, 1, 2].map((c) => {
    let sum = 0, squares = 0;
    for (let i = c; i < pixels.length; i += 4) {
      sum += pixels[i];
      squares += pixels[i] * pixels[i];
    }
    const count = pixels.length / 4, mean = sum / count;
    return { mean, std: Math.sqrt(Math.max(squares / count - mean * mean, 0)) };
  });
}

/** A picture at a smaller size. */
export function scaled(picture, height, width) {
  const small = blank(width, height);
  fill(small, resized(picture.pixels, picture, small), (value) => value);
  return small;
}

export function blank(width, height) {
  return { pixels: new Uint8ClampedArray(4 * width * height), width, height };
}

/** Fill in a picture, whose levels come from those of rows of three channels. */
function fill({ pixels }, rows, level) {
  let i = 0;
  for (const row of rows) {
    for (let j = 0; j < row.length; i += 4, j += 3) {
      pixels[i] = level(row[j], i, 0);
      pixels[i + 1] = level(row[j + 1], i + 1, 1);
      pixels[i + 2] = level(row[j + 2], i + 2, 2);
      pixels[i + 3] = 255;
    }
  }
}

/**
 * Values of RGBA pixels at another size: rows of three channels, one after the other, of which there is only a handful at once.
 * By area where it gets smaller, else cubic, as OpenCV does both.
 * @param {{width: number, height: number}} from the size that there is @param {{width: number, height: number}} to the other
 * @yields {Float32Array} filled anew for the next row
 */
function* resized(values, from, to) {
  const weigh = to.width * to.height < from.width * from.height ? areaWeights : cubicWeights;
  const across = weigh(from.width, to.width), down = weigh(from.height, to.height);
  const row = new Float32Array(3 * to.width);
  const rows = Array.from({ length: down.count }, () => ({ y: -1, values: new Float32Array(3 * to.width) }));
  for (let y = 0; y < to.height; y++) {
    row.fill(0);
    for (let k = y * down.count; k < (y + 1) * down.count; k++) {
      const weight = down.weights[k];
      if (weight === 0) continue;
      const wide = rows[down.from[k] % down.count]; // those of one window are neighbors, so each has a place of its own
      if (wide.y !== down.from[k]) {
        wide.y = down.from[k];
        weighAcross(values, 4 * wide.y * from.width, across, wide.values);
      }
      for (let j = 0; j < row.length; j++) row[j] += weight * wide.values[j];
    }
    yield row;
  }
}

function weighAcross(values, start, { count, from, weights }, row) {
  for (let j = 0, k = 0; j < row.length; j += 3) {
    let red = 0, green = 0, blue = 0;
    for (const end = k + count; k < end; k++) {
      const i = start + 4 * from[k], weight = weights[k];
      red += weight * values[i];
      green += weight * values[i + 1];
      blue += weight * values[i + 2];
    }
    row[j] = red;
    row[j + 1] = green;
    row[j + 2] = blue;
  }
}

/** For each place of a side of `to`: which `count` places of one of `from` it is made of, and how much of each. */
function areaWeights(from, to) {
  const width = from / to;
  return weightsOf(to, Math.ceil(width) + 1, (place, k) => {
    const at = Math.floor(place * width + 1e-6) + k;
    const covered = Math.min(at + 1, (place + 1) * width) - Math.max(at, place * width);
    return [Math.min(at, from - 1), covered > 1e-6 ? covered / width : 0];
  });
}

function cubicWeights(from, to) {
  return weightsOf(to, 4, (place, k) => {
    const at = ((place + 0.5) * from) / to - 0.5, first = Math.floor(at) - 1;
    return [Math.min(Math.max(first + k, 0), from - 1), cubic(Math.abs(at - first - k))];
  });
}

function weightsOf(to, count, weigh) {
  const from = new Int32Array(to * count), weights = new Float32Array(to * count);
  for (let i = 0; i < from.length; i++) [from[i], weights[i]] = weigh(Math.floor(i / count), i % count);
  return { count, from, weights };
}

/** Keys' kernel with OpenCV's a. */
function cubic(distance) {
  const a = -0.75;
  if (distance <= 1) return ((a + 2) * distance - (a + 3)) * distance * distance + 1;
  return distance < 2 ? a * (((distance - 5) * distance + 8) * distance - 4) : 0;
}

// A picture of any size in little memory, tile by tile, each normalized by statistics of the whole picture:
// inference/style/tiles.py once more, where the reasons are.

import { blank } from "./levels.js";

const MARGIN_PX = 64;
const SAMPLE_PX = 48, SAMPLE_MARGIN_PX = 16;

/**
 * @param {number} pixels in the network at once, about
 * @param {{
 *   measure: (squares: object[], margins: number[]) => Promise<object>, // their statistics
 *   paint: (tile: object, statistics: object) => Promise<object>, // what the network makes of a part of the picture
 *   painted: (pixels: number) => Promise<void>, // is told of each part
 * }} network
 */
export async function paintTiles(picture, pixels, stride, { measure, paint, painted }) {
  const statistics = await measure(...samples(picture, pixels));
  const painting = blank(picture.width, picture.height);
  const side = Math.floor(Math.sqrt(pixels));
  for (const rows of spans(picture.height, side, stride)) {
    for (const columns of spans(picture.width, side, stride)) {
      const { around: [left, right] } = columns, { around: [top, bottom] } = rows;
      const tile = await paint(part(picture, left, top, right - left, bottom - top), statistics);
      const [x, end] = columns.inside;
      for (let y = rows.inside[0]; y < rows.inside[1]; y++) {
        const start = 4 * ((y - top) * tile.width + x - left);
        painting.pixels.set(tile.pixels.subarray(start, start + 4 * (end - x)), 4 * (y * picture.width + x));
      }
      await painted((end - x) * (rows.inside[1] - rows.inside[0]));
    }
  }
  return painting;
}

function part({ pixels, width }, left, top, partWidth, partHeight) {
  const cut = blank(partWidth, partHeight);
  for (let y = 0; y < partHeight; y++) {
    const start = 4 * ((top + y) * width + left);
    cut.pixels.set(pixels.subarray(start, start + 4 * partWidth), 4 * y * partWidth);
  }
  return cut;
}

/** Parts of a side, of about the same size, that begin at multiples of the stride: [start, stop], and with the margin. */
function spans(size, most, stride) {
  if (size <= most) return [{ inside: [0, size], around: [0, size] }];
  const inside = Math.floor((most - 2 * MARGIN_PX) / stride);
  const count = Math.ceil(size / (inside * stride));
  const edge = (i) => (i === count ? size : Math.min(size, Math.round((size / stride) * (i / count)) * stride));
  return Array.from({ length: count }, (_, i) => [edge(i), edge(i + 1)]).map(([start, stop]) => ({
    inside: [start, stop],
    around: [Math.max(0, start - MARGIN_PX), Math.min(size, stop + MARGIN_PX)],
  }));
}

/** Squares from all over a picture, evenly, together of about so many pixels; and their margins in height and width. */
function samples(picture, pixels) {
  const whole = SAMPLE_PX + 2 * SAMPLE_MARGIN_PX;
  const sizes = [picture.height, picture.width], [height, width] = sizes;
  const sides = sizes.map((size) => Math.min(whole, size));
  const margins = sizes.map((size) => (size > whole ? SAMPLE_MARGIN_PX : 0));
  const most = Math.floor(pixels / (sides[0] * sides[1]));
  const rows = Math.min(Math.ceil(height / SAMPLE_PX), Math.max(1, Math.round(Math.sqrt((most * height) / width))));
  const columns = Math.min(Math.ceil(width / SAMPLE_PX), Math.max(1, Math.floor(most / rows)));
  const squares = starts(height, sides[0], rows).flatMap((y) =>
    starts(width, sides[1], columns).map((x) => part(picture, x, y, sides[1], sides[0])));
  return [squares, margins];
}

/** Where so many parts of a length begin, each in the middle of its share, but inside. */
function starts(size, side, count) {
  return Array.from({ length: count }, (_, i) =>
    Math.min(Math.max(0, Math.round((size * (i + 0.5)) / count - side / 2)), size - side));
}

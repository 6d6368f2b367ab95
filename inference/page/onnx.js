// What an .onnx file of ours says about itself, and the two networks that paint it tile by tile: inference/style/tiles.py once
// more, where the reasons are. A message of protobuf is read and written as far as that needs.

const CONTRACTS = ["1", "2"], WITH_LEVELS = "3";
const MAX_STROKES = 10;
const OPSET = 18; // of what is added here
const FLOAT = 1, INT64 = 7; // of TensorProto.DataType
export const MARGINS = "tiles/margins", SIDES = "tiles/sides"; // what the measuring network takes besides pictures

/** A file that is not one of ours: no other backend would take it. */
export class Refused extends Error {}

/** ModelProto: the metadata are field 14, entries of key 1 and value 2. */
export function readContract(bytes) {
  const metadata = {};
  try {
    for (const entry of fields(bytes, 14)) {
      const [key, value] = [1, 2].map((number) => text(fields(entry, number)[0]));
      metadata[key] = value;
    }
  } catch {
    throw new Refused("is damaged, or not an ONNX file");
  }
  const version = metadata["allaprima.contract"];
  if (!version) throw new Refused("is an ONNX file, but no style of Alla Prima");
  if (version === WITH_LEVELS) throw new Refused("paints strokes by itself, as this page does; export it without --strokes");
  if (!CONTRACTS.includes(version)) throw new Refused(`has contract ${version}, which this page does not know; update it`);
  return {
    io: metadata["allaprima.io"] ?? "image",
    precision: metadata["allaprima.precision"] ?? "fp32",
    stride: Number(metadata["allaprima.stride_px"]),
    least: Number(metadata["allaprima.least_px"]),
    title: metadata["allaprima.title"],
    painter: metadata["allaprima.painter"],
    year: metadata["allaprima.year"],
    license: metadata["allaprima.license"],
    tier: metadata["allaprima.tier"],
    strokes: ownStrokes(metadata["allaprima.card"]),
  };
}

/** How large a style's strokes look best: as its card says, else 1. */
function ownStrokes(card) {
  try {
    const { strokes } = JSON.parse(card);
    return strokes > 0 && strokes <= MAX_STROKES ? strokes : 1;
  } catch {
    return 1;
  }
}

/**
 * Two networks made of a style's: one that normalizes a batch as if it were one picture, by what lies inside of `MARGINS`, and
 * returns what it multiplies by and adds in every norm; and one that is given those.
 * @returns {{measuring: Uint8Array, given: Uint8Array, names: string[]}} names of what the first returns and the second takes
 */
export function measuringAndGiven(bytes) {
  const names = [];
  const [measuring, given] = [true, false].map((measures) => {
    const model = parts(bytes).filter((part) => part.number !== 8); // opset_import: a style says the same in ours
    const changed = model.map((part) => (part.number === 7 ? field(7, withoutNorms(part.value, measures, names)) : part.raw));
    return joinBytes([...changed, field(8, number(2, OPSET))]);
  });
  return { measuring, given, names: [...new Set(names)] };
}

/** GraphProto: 1 node, 5 initializer, 11 input, 12 output. */
function withoutNorms(graph, measures, names) {
  const changed = [];
  for (const part of parts(graph)) {
    if (part.number !== 1 || text(fields(part.value, 4)[0]) !== "InstanceNormalization") {
      changed.push(part.raw);
      continue;
    }
    const [x, scale, bias] = fields(part.value, 1).map(text), [y] = fields(part.value, 2).map(text);
    const [whole, gain, shift] = ["float", "gain", "shift"].map((name) => `${y}/${name}`);
    names.push(gain, shift);
    changed.push(node("Cast", [x], whole, FLOAT)); // in half precision sums overflow
    if (measures) changed.push(...measure(y, scale, bias, epsilonOf(part.value)));
    for (const name of [gain, shift]) changed.push(field(measures ? 12 : 11, valueInfo(name, FLOAT)));
    changed.push(node("Mul", [whole, gain], `${y}/scaled`), node("Add", [`${y}/scaled`, shift], `${y}/painted`));
    changed.push(node("CastLike", [`${y}/painted`, scale], y));
  }
  if (measures) {
    for (const [name, values] of Object.entries(CONSTANTS)) changed.push(field(5, tensor(name, INT64, new BigInt64Array(values))));
    for (const name of [MARGINS, SIDES]) changed.push(field(11, valueInfo(name, INT64)));
  }
  return joinBytes(changed);
}

const CONSTANTS = {
  "tiles/two": [2n],
  "tiles/four": [4n],
  "tiles/height_and_width": [2n, 3n],
  "tiles/all_but_channels": [0n, 2n, 3n], // the batch is one picture
  "tiles/channels": [1n, -1n, 1n, 1n],
};

/** From a norm's input, as floats, to what it multiplies by and adds. */
function measure(y, scale, bias, epsilon) {
  const steps = [
    // Features may be smaller than the picture.
    ["Shape", ["float"], "shape"],
    ["Slice", ["shape", "tiles/two", "tiles/four"], "size"],
    ["Mul", ["size", MARGINS], "times"],
    ["Div", ["times", SIDES], "start"],
    ["Sub", ["size", "start"], "stop"],
    ["Slice", ["float", "start", "stop", "tiles/height_and_width"], "inside"],
    ["ReduceMean", ["inside", "tiles/all_but_channels"], "mean"],
    ["Sub", ["inside", "mean"], "centered"],
    ["Mul", ["centered", "centered"], "square"],
    ["ReduceMean", ["square", "tiles/all_but_channels"], "variance"],
    ["Add", ["variance", "epsilon"], "sum"],
    ["Sqrt", ["sum"], "deviation"],
    ["Cast", [scale], "scale", FLOAT],
    ["Reshape", ["scale", "tiles/channels"], "weight"],
    ["Div", ["weight", "deviation"], "gain"],
    ["Cast", [bias], "bias", FLOAT],
    ["Reshape", ["bias", "tiles/channels"], "offset"],
    ["Mul", ["mean", "gain"], "shifted"],
    ["Sub", ["offset", "shifted"], "shift"],
  ];
  const own = new Set(["float", "epsilon", ...steps.map(([, , output]) => output)]);
  const named = (name) => (own.has(name) ? `${y}/${name}` : name);
  return [
    field(5, tensor(`${y}/epsilon`, FLOAT, new Float32Array([epsilon]))),
    ...steps.map(([kind, inputs, output, to]) => node(kind, inputs.map(named), named(output), to)),
  ];
}

/** NodeProto: 5 attribute, of which 1 is the name and 2 a float. */
function epsilonOf(norm) {
  for (const attribute of fields(norm, 5)) {
    if (text(fields(attribute, 1)[0]) !== "epsilon") continue;
    const value = fields(attribute, 2)[0];
    return new DataView(value.buffer, value.byteOffset).getFloat32(0, true);
  }
  return 1e-5;
}

/** The field of GraphProto that is a node; `to` is a cast's. */
function node(kind, inputs, output, to) {
  const attribute = to === undefined ? [] : [field(5, joinBytes([field(1, utf8("to")), number(3, to), number(20, 2)]))];
  return field(1, joinBytes([...inputs.map((name) => field(1, utf8(name))), field(2, utf8(output)), field(4, utf8(kind)), ...attribute]));
}

function tensor(name, type, values) {
  return joinBytes([number(1, values.length), number(2, type), field(8, utf8(name)), field(9, new Uint8Array(values.buffer))]);
}

/** An input or output of any shape. */
function valueInfo(name, type) {
  return joinBytes([field(1, utf8(name)), field(2, field(1, number(1, type)))]);
}

// ---- protobuf ----

const text = (bytes) => new TextDecoder().decode(bytes);
const utf8 = (value) => new TextEncoder().encode(value);

/** The values of one field of a message. */
function fields(bytes, wanted) {
  return parts(bytes).filter((part) => part.number === wanted).map((part) => part.value);
}

/** All fields of a message: number, value (bytes, or a number), and both as they stand there. */
function parts(bytes) {
  const found = [];
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      if (at >= bytes.length || factor > 2 ** 63) throw new Error("truncated");
      const byte = bytes[at++];
      value += (byte % 128) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const start = at, tag = varint(), wire = tag % 8;
    let value;
    if (wire === 0) value = varint();
    else {
      const size = { 1: () => 8, 2: varint, 5: () => 4 }[wire]?.();
      if (size === undefined) throw new Error("unknown wire type");
      if (at + size > bytes.length) throw new Error("truncated");
      value = bytes.subarray(at, at + size);
      at += size;
    }
    found.push({ number: Math.floor(tag / 8), value, raw: bytes.subarray(start, at) });
  }
  return found;
}

function field(at, bytes) {
  return joinBytes([varintOf(8 * at + 2), varintOf(bytes.length), bytes]);
}

function number(at, value) {
  return joinBytes([varintOf(8 * at), varintOf(value)]);
}

function varintOf(value) {
  const bytes = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push((value % 128) + 128);
  return new Uint8Array([...bytes, value]);
}

function joinBytes(arrays) {
  const joined = new Uint8Array(arrays.reduce((sum, array) => sum + array.length, 0));
  let at = 0;
  for (const array of arrays) {
    joined.set(array, at);
    at += array.length;
  }
  return joined;
}

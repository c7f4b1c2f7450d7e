/**
 * The parts of an .onnx file (ONNX's ModelProto, a protobuf message) that octamark reads or changes itself: the
 * metadata, which hold the model's card and layout, and the sizes of inputs and outputs.
 */
import { WeightsError } from "./errors.js";

const GRAPH = 7; // field numbers of ModelProto
const METADATA = 14;
const INPUTS = 11; // of GraphProto
const OUTPUTS = 12;
const INTERMEDIATE = 13;
const TO_DIMENSION = [2, 1, 2, 1]; // ValueInfoProto.type, TypeProto.tensor_type, Tensor.shape, TensorShapeProto.dim

/** The fields of a message: number, content (empty if it is a number), and the field's own bytes. */
function* fields(message) {
  let start = 0;
  while (start < message.length) {
    let [key, at] = varint(message, start);
    let content = new Uint8Array();
    const kind = key & 7;
    if (kind === 0) [, at] = varint(message, at);
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const [length, begin] = varint(message, at);
      at = begin + length;
      content = message.subarray(begin, at);
    } else throw new WeightsError("not an ONNX file");
    if (at > message.length) throw new WeightsError("not a whole ONNX file");
    yield [key >>> 3, content, message.subarray(start, at)];
    start = at;
  }
}

/** The varint at a place, and the place behind it. Numbers above 2^32 lose their upper bits; none of these matter. */
function varint(message, at) {
  let value = 0;
  for (let shift = 0; ; shift += 7) {
    if (at >= message.length) throw new WeightsError("not a whole ONNX file");
    const byte = message[at++];
    if (shift < 32) value |= (byte & 127) << shift;
    if (byte < 128) return [value >>> 0, at];
  }
}

function varintBytes(value) {
  const bytes = [];
  while (value > 127) {
    bytes.push((value & 127) | 128);
    value >>>= 7;
  }
  return [...bytes, value];
}

function joined(parts) {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}

/** A field that holds bytes. */
function encoded(field, content) {
  return joined([varintBytes((field << 3) | 2), varintBytes(content.length), content]);
}

/**
 * The metadata of a model file: key -> text.
 * @param {Uint8Array} model
 */
export function metadata(model) {
  const text = new TextDecoder();
  const entries = {};
  for (const [field, content] of fields(model)) {
    if (field !== METADATA) continue;
    const entry = {};
    for (const [part, value] of fields(content)) entry[part] = text.decode(value);
    entries[entry[1]] = entry[2] ?? "";
  }
  return entries;
}

/**
 * A model file without the sizes of its input, outputs and intermediate results, so that it takes pictures of any size.
 * @param {Uint8Array} model
 */
export function withFreeShapes(model) {
  const parts = [];
  for (const [field, content, whole] of fields(model)) {
    if (field !== GRAPH) {
      parts.push(whole);
      continue;
    }
    const graph = [];
    for (const [part, value, own] of fields(content)) {
      if (part === INPUTS || part === OUTPUTS) graph.push(encoded(part, withoutSizes(value, 0)));
      else if (part !== INTERMEDIATE) graph.push(own);
    }
    parts.push(encoded(GRAPH, joined(graph)));
  }
  return joined(parts);
}

function withoutSizes(message, depth) {
  if (depth === TO_DIMENSION.length) return new Uint8Array(); // a Dimension with neither a number nor a name
  const parts = [];
  for (const [field, content, whole] of fields(message)) {
    const inside = field === TO_DIMENSION[depth];
    parts.push(inside ? encoded(field, withoutSizes(content, depth + 1)) : whole);
  }
  return joined(parts);
}

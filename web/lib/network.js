/** ONNX Runtime sessions of model files, and what their metadata say. */
import { PredictionError, WeightsError } from "./errors.js";
import { Layout } from "./layout.js";
import { metadata } from "./onnx.js";

const CARD = "octamark"; // metadata keys
const LAYOUT = "octamark.layout";
const CROPS_PER_RUN = 2;

/** A network with its session. Runs follow each other, since ONNX Runtime takes one at a time. */
export class Network {
  #last = Promise.resolve();

  constructor(ort, session, name) {
    this.ort = ort;
    this.session = session;
    this.name = name;
  }

  /** @param {Uint8Array} bytes of an .onnx file */
  static async create(ort, bytes, name, device) {
    try {
      const providers = device === "webgpu" ? ["webgpu", "wasm"] : ["wasm"];
      const session = await ort.InferenceSession.create(bytes, { executionProviders: providers, logSeverityLevel: 3 });
      return new Network(ort, session, name);
    } catch (error) {
      throw new WeightsError(`${name}: ONNX Runtime cannot load it (${error.message})`, { cause: error });
    }
  }

  /** The named outputs of one run, as typed arrays. */
  run(input, tensor, names) {
    const turn = this.#last.then(async () => {
      const outputs = await this.session.run({ [input]: tensor }, names);
      const values = {};
      for (const name of names) {
        values[name] = await outputs[name].getData();
        outputs[name].dispose();
      }
      return values;
    });
    this.#last = turn.catch(() => {});
    return turn;
  }

  /** The outputs for `count` crops of `size` x `size` RGB pixels, one behind the other. */
  async runCrops(pixels, count, size, names) {
    const parts = [];
    const bytes = size * size * 3;
    for (let start = 0; start < count; start += CROPS_PER_RUN) {
      const end = Math.min(start + CROPS_PER_RUN, count);
      const tensor = new this.ort.Tensor("uint8", pixels.subarray(start * bytes, end * bytes), [end - start, size, size, 3]);
      parts.push(await this.run("crops", tensor, names));
    }
    return Object.fromEntries(names.map((name) => [name, this.#joined(parts.map((part) => part[name]), name)]));
  }

  #joined(arrays, name) {
    const result = new Float32Array(arrays.reduce((sum, array) => sum + array.length, 0));
    let at = 0;
    for (const array of arrays) {
      result.set(array, at);
      at += array.length;
    }
    if (!result.every(Number.isFinite)) {
      throw new PredictionError(`model ${this.name}: ${name} holds values that are not finite`);
    }
    return result;
  }

  release() {
    return this.session.release();
  }
}

/**
 * The card and the layout of a model file. A layout of this version takes the place of the file's one of that name, whose
 * drawing may be an older one.
 * @param {boolean} regional whether it has to be a regional network or a model for whole faces
 * @param {object} layouts tables of this version's layouts, by name
 */
export function cardAndLayout(bytes, name, regional, layouts) {
  let entries;
  try {
    entries = metadata(bytes);
  } catch (error) {
    throw new WeightsError(`${name}: ${error.message}`, { cause: error });
  }
  if (!(CARD in entries) || !(LAYOUT in entries)) {
    throw new WeightsError(`${name}: an ONNX file without octamark's model card and layout; octamark export writes them`);
  }
  const card = JSON.parse(entries[CARD]);
  if (regional !== "global_model" in card) {
    throw new WeightsError(`${name}: ${regional ? "a model for whole faces" : "a regional network"}`);
  }
  const table = JSON.parse(entries[LAYOUT]);
  if (!Object.hasOwn(layouts, table.name)) return { card, layout: new Layout(table) };
  const builtin = layouts[table.name];
  if (JSON.stringify(table.points) !== JSON.stringify(builtin.points)) {
    throw new WeightsError(`${name}: its layout ${table.name} has other points than octamark's layout of that name`);
  }
  return { card, layout: new Layout(builtin) };
}

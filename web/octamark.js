/**
 * octamark in the browser: facial landmarks with an expected error for every point.
 *
 *     import { load } from "./octamark.js";
 *     const landmarker = await load("tiny-128");
 *     for (const face of await landmarker(document.querySelector("img"))) console.log(face.part("left_eye"));
 *
 * Everything runs on this machine: the module fetches ONNX Runtime and the model files from the folder that it lies in,
 * and nothing else.
 */
import { BoxError, ConfigError, WeightsError, checkChoice, checkNumber } from "./lib/errors.js";
import { confirmedFaces, searchFaces } from "./lib/detector.js";
import { Face, Faces } from "./lib/faces.js";
import {
  Crop, MIN_BOX_SIDE, apply, applyToSpread, cropTransform, detectorSquare, landmarkBox, squareAround,
} from "./lib/geometry.js";
import { Network, cardAndLayout } from "./lib/network.js";
import { withFreeShapes } from "./lib/onnx.js";
import { cutCrop, toPicture } from "./lib/picture.js";
import { refineFace, regionTable, usesRegionalCalibration } from "./lib/refinement.js";
import { Landmarks, searchRotation } from "./lib/rotation.js";

export {
  BoxError, ConfigError, LayoutError, OctamarkError, PictureError, PredictionError, WeightsError,
} from "./lib/errors.js";
export { Face, Faces } from "./lib/faces.js";
export { Layout } from "./lib/layout.js";
export { toCoco, toCsv, toJson, toPts } from "./lib/formats.js";
export { Tracker } from "./lib/tracker.js";
export { toPicture } from "./lib/picture.js";

const MODES = ["auto", "always", "never"];
const DEFAULTS = {
  rotation: "auto",
  refine: "auto",
  regions: "regions",
  minConfidence: 0,
  threshold: 0.6,
  device: "wasm",
  detector: null,
  base: new URL("./", import.meta.url).href,
  ort: null,
};
const FULL_FRAME_SIZES = [0.5, 0.65, 0.8, 0.95]; // side of the landmark box over the picture's shorter side, guesses
const FULL_FRAME_HEIGHTS = [0.5, 0.58]; // of its middle, as shares of the picture's height: foreheads have no landmarks
const FULL_FRAME_ROUNDS = 2; // how often the crop then follows the landmarks
const RUNTIMES = { wasm: "ort/ort.wasm.bundle.min.mjs", webgpu: "ort/ort.webgpu.bundle.min.mjs" };

const shared = new Map(); // what several landmarkers use: ONNX Runtime, the list of models, the detector; by URL

function once(key, make) {
  if (!shared.has(key)) {
    const value = make();
    shared.set(key, value);
    value.catch(() => shared.delete(key));
  }
  return shared.get(key);
}

/** The models in the folder of this module: name -> { file, bytes, sha256, size, parameters, ... }. */
export async function models(base = DEFAULTS.base) {
  return (await catalogue(base)).models;
}

function catalogue(base) {
  return once(`${base}octamark.json`, async () => JSON.parse(new TextDecoder().decode(await fetched(`${base}octamark.json`))));
}

/**
 * A landmarker: an async function from a picture to its faces, with `card`, `layout` and `options`.
 * @param model name of a model in the folder of this module, URL of an .onnx file that octamark wrote, or its bytes
 */
export async function load(model = "small", options = {}) {
  const settings = checkedOptions(options);
  const runtime = await (settings.ort ?? loadRuntime(settings));
  const { bytes, name } = await readModel(model, settings.base);
  const { heads, layouts, regionsModel } = await catalogue(settings.base);
  const { card, layout } = cardAndLayout(bytes, name, false, layouts);
  layout.head = heads[layout.name] ?? null;
  const network = await Network.create(runtime, bytes, name, settings.device);
  const landmarker = new Landmarker(settings, card, layout, network);
  const refines = card.name === regionsModel || settings.regions !== DEFAULTS.regions;
  if (settings.refine === "always" || (settings.refine === "auto" && refines)) {
    landmarker.refiner = await loadRefiner(runtime, settings, layout);
  }
  if (settings.detector === null) landmarker.yunet = await loadDetector(runtime, settings);
  const call = (source, how) => landmarker.predict(source, how);
  return Object.assign(call, {
    card,
    layout,
    options: Object.freeze(settings),
    locate: (picture, how) => landmarker.locate(picture, how),
    readLocated: (located, how) => landmarker.readLocated(located, how),
    dispose: () => landmarker.dispose(),
  });
}

function checkedOptions(options) {
  const unknown = Object.keys(options).filter((name) => !(name in DEFAULTS));
  if (unknown.length) {
    throw new ConfigError(`unknown option ${unknown.join(", ")}; options: ${Object.keys(DEFAULTS).join(", ")}`);
  }
  const settings = { ...DEFAULTS, ...options };
  checkChoice("rotation", settings.rotation, MODES);
  checkChoice("refine", settings.refine, MODES);
  checkChoice("device", settings.device, Object.keys(RUNTIMES));
  checkNumber("minConfidence", settings.minConfidence, 0, 1);
  checkNumber("threshold", settings.threshold, 0.01, 0.99);
  if (settings.detector !== null && typeof settings.detector !== "function") {
    throw new ConfigError(`detector ${settings.detector}; allowed: a function from a picture to boxes and scores, or null`);
  }
  settings.base = new URL(settings.base, globalThis.document?.baseURI ?? import.meta.url).href;
  if (!settings.base.endsWith("/")) settings.base += "/";
  return settings;
}

function loadRuntime({ base, device }) {
  return once(base + RUNTIMES[device], async () => {
    const runtime = await import(/* webpackIgnore: true */ /* @vite-ignore */ base + RUNTIMES[device]);
    runtime.env.wasm.numThreads = 1;
    return runtime;
  });
}

async function readModel(model, base) {
  if (model instanceof ArrayBuffer) return { bytes: new Uint8Array(model), name: "the model's bytes" };
  if (model instanceof Uint8Array) return { bytes: model, name: "the model's bytes" };
  const { models: known } = await catalogue(base);
  if (typeof model === "string" && Object.hasOwn(known, model)) {
    const { file, sha256 } = known[model];
    const bytes = await fetched(base + file);
    await checkSum(bytes, sha256, base + file);
    return { bytes, name: model };
  }
  if ((typeof model === "string" && /\.onnx([?#]|$)/.test(model)) || model instanceof URL) {
    return { bytes: await fetched(model), name: String(model) };
  }
  const names = Object.keys(known).filter((name) => !known[name].regional);
  throw new WeightsError(`unknown model ${JSON.stringify(model)}; models: ${names.join(", ")}, or the URL of an .onnx file`);
}

async function fetched(url) {
  let response;
  try {
    response = await fetch(url);
  } catch (error) {
    throw new WeightsError(`${url}: cannot be fetched (${error.message})`, { cause: error });
  }
  if (!response.ok) throw new WeightsError(`${url}: cannot be fetched (status ${response.status})`);
  return new Uint8Array(await response.arrayBuffer());
}

/** Browsers have SHA-256 on secure origins only (https, localhost); elsewhere the file is taken as it is. */
async function checkSum(bytes, expected, name) {
  if (!globalThis.crypto?.subtle) return;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (hex !== expected) throw new WeightsError(`${name}: damaged (its sha256 is not the released one)`);
}

function loadDetector(runtime, { base, device }) {
  return once(`${base}${device} detector`, async () => {
    const { file, sha256 } = (await catalogue(base)).detector;
    const bytes = await fetched(base + file);
    await checkSum(bytes, sha256, base + file);
    return Network.create(runtime, withFreeShapes(bytes), file, "wasm");
  });
}

async function loadRefiner(runtime, settings, layout) {
  const { bytes, name } = await readModel(settings.regions, settings.base);
  const { layouts } = await catalogue(settings.base);
  const { card, layout: regional } = cardAndLayout(bytes, name, true, layouts);
  if (regional.name !== layout.name) {
    throw new WeightsError(`${name}: reads regions of layout ${regional.name}, but the model finds points of ${layout.name}`);
  }
  const network = await Network.create(runtime, bytes, name, settings.device);
  const run = (pixels, count, names) => network.runCrops(pixels, count, card.rule.size, names);
  return { card, layout, table: regionTable(regional), network, run };
}

/** One model with its options; `load` gives it as a function. */
class Landmarker {
  refiner = null;
  yunet = null;

  constructor(options, card, layout, network) {
    Object.assign(this, { options, card, layout, network });
  }

  /**
   * The faces of a picture.
   * @param source what `toPicture` takes
   * @param how { boxes, boxKind, fullFrame, heatmaps }
   */
  async predict(source, how = {}) {
    const allowed = ["boxes", "boxKind", "fullFrame", "heatmaps"];
    const unknown = Object.keys(how).filter((name) => !allowed.includes(name));
    if (unknown.length) throw new ConfigError(`unknown option ${unknown.join(", ")}; options: ${allowed.join(", ")}`);
    const picture = await toPicture(source);
    return this.readLocated(await this.locate(picture, how), how);
  }

  /** Where the faces of a picture are: { picture, faces: [{ crop, box, score }] }; the first half of a prediction. */
  async locate(picture, { boxes = null, boxKind = "detector", fullFrame = false } = {}) {
    checkChoice("boxKind", boxKind, ["detector", "landmarks"]);
    if (fullFrame) {
      if (boxes !== null) throw new BoxError("fullFrame takes no boxes: the face fills the picture");
      return { picture, faces: [{ crop: await this.searchFullFrame(picture), box: null, score: null }] };
    }
    let found;
    if (boxes !== null) {
      found = checkBoxes(boxes, picture).map((box) => ({ box, score: 1 }));
    } else {
      boxKind = "detector";
      found = await this.detect(picture);
    }
    return { picture, faces: found.map(({ box, score }) => ({ crop: this.cropOf(picture, box, boxKind), box, score })) };
  }

  async detect(picture) {
    if (this.options.detector !== null) {
      const { boxes, scores } = (await this.options.detector(picture)) ?? {};
      const checked = checkBoxes(boxes, picture, "detector: ");
      const values = Array.from(scores ?? []);
      if (values.length !== checked.length || !values.every(Number.isFinite)) {
        throw new BoxError(`detector: scores (${values.join(", ")}); allowed: ${checked.length} finite numbers, one for each box`);
      }
      return checked.map((box, index) => ({ box, score: values[index] }));
    }
    const run = (planes, rows, columns, names) =>
      this.yunet.run("input", new this.yunet.ort.Tensor("float32", planes, [1, 3, rows, columns]), names);
    const candidates = await searchFaces(picture, this.options.threshold, run);
    return confirmedFaces(candidates, this.options.threshold, async (unsure) => {
      const crops = unsure.map(({ box, turns }) => this.cropOf(picture, box, "detector").rotated(90 * turns));
      return (await this.read(crops)).map(({ meanConfidence }) => meanConfidence);
    });
  }

  cropOf(picture, box, kind) {
    const rule = this.card.crop;
    const square =
      kind === "landmarks"
        ? squareAround(box, rule.margin)
        : detectorSquare(box, rule.detector_scale, rule.detector_shift);
    const centre = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
    return new Crop(picture, cropTransform(square, rule.size), centre);
  }

  /** The crop of the face that fills a picture: the surest of several guesses, moved to its own landmarks. */
  async searchFullFrame(picture) {
    const { size, margin } = this.card.crop;
    const guesses = [];
    for (const share of FULL_FRAME_SIZES) {
      for (const height of FULL_FRAME_HEIGHTS) {
        const centre = [picture.width / 2 - 0.5, picture.height * height - 0.5];
        const side = share * Math.min(picture.width, picture.height) * margin;
        guesses.push(new Crop(picture, cropTransform([...centre, side], size), centre));
      }
    }
    const read = await this.read(guesses);
    let best = 0;
    read.forEach(({ meanConfidence }, index) => {
      if (meanConfidence > read[best].meanConfidence) best = index;
    });
    let [crop, landmarks] = [guesses[best], read[best]];
    for (let round = 0; round < FULL_FRAME_ROUNDS; round++) {
      const square = squareAround(landmarkBox(landmarks.points), margin);
      if (square[2] <= 1) break;
      const following = new Crop(picture, cropTransform(square, size), square.slice(0, 2));
      const [again] = await this.read([following]);
      if (again.meanConfidence <= landmarks.meanConfidence) break;
      [crop, landmarks] = [following, again];
    }
    return crop;
  }

  /** The faces of a located picture; the second half of a prediction. */
  async readLocated({ picture, faces }, { heatmaps = false, rotation = this.options.rotation, keepUnsure = false } = {}) {
    const { card, layout, options } = this;
    const read = (crops) => this.read(crops, heatmaps);
    const first = await read(faces.map(({ crop }) => crop));
    let readings = first.map((landmarks, index) => ({ crop: faces[index].crop, landmarks }));
    if (layout.diagram) readings = await searchRotation(readings, read, layout.diagram, card.crop, rotation);
    if (this.refiner) {
      for (const reading of readings) {
        reading.landmarks = await refineFace(reading.crop, reading.landmarks, card.crop.size, options.refine, this.refiner);
      }
    }
    const crops = readings.map(({ crop }) => crop);
    const regional = this.refiner && usesRegionalCalibration(crops, options.refine);
    const { ratios } = (regional ? this.refiner.card : card).calibration;
    const results = readings.map(({ crop, landmarks }, index) => {
      const unit = layout.referenceDistance(landmarks.points);
      const points = landmarks.points.map(([x, y]) =>
        [x + unit * card.offset[0], y + unit * card.offset[1]].map(Math.fround),
      );
      return new Face(layout, {
        landmarks: points,
        spread: landmarks.spread.map((pair) => pair.map(Math.fround)),
        confidence: landmarks.confidence,
        ...(landmarks.visible ? { visible: landmarks.visible } : {}),
        box: faces[index].box ?? landmarkBox(points),
        score: faces[index].score ?? landmarks.meanConfidence,
        crop: crop.transform,
        ...(heatmaps ? { heatmaps: landmarks.heatmaps } : {}),
        radiusRatios: ratios,
      });
    });
    const sure = (face) => keepUnsure || face.meanConfidence >= options.minConfidence;
    return Faces.create(layout, picture.width, picture.height, results.filter(sure));
  }

  /** The landmarks of each crop, in pixels of its picture. */
  async read(crops, heatmaps = false) {
    if (!crops.length) return [];
    const { size } = this.card.crop;
    const { count } = this.layout;
    const bytes = size * size * 3;
    const pixels = new Uint8Array(crops.length * bytes);
    crops.forEach((crop, index) => cutCrop(crop.picture, crop.transform, size, pixels, index * bytes));
    const visible = (this.card.visibility ?? null) !== null; // of models that tell what can be seen
    const names = ["landmarks", "spread", "confidence", ...(visible ? ["visible"] : []), ...(heatmaps ? ["heatmaps"] : [])];
    const outputs = await this.network.runCrops(pixels, crops.length, size, names);
    return crops.map(({ transform }, place) => {
      const pair = (values, index) => {
        const at = 2 * (place * count + index);
        return [values[at], values[at + 1]];
      };
      const ofCrop = (values) => Array.from(values.subarray(place * count, (place + 1) * count));
      const indices = Array.from({ length: count }, (_, index) => index);
      const area = count * (size / 4) ** 2;
      return new Landmarks(
        indices.map((index) => apply(transform, pair(outputs.landmarks, index))),
        indices.map((index) => applyToSpread(transform, pair(outputs.spread, index))),
        ofCrop(outputs.confidence),
        heatmaps ? outputs.heatmaps.slice(place * area, (place + 1) * area) : undefined,
        visible ? ofCrop(outputs.visible) : undefined,
      );
    });
  }

  /** Gives the memory of the networks back; the detector stays, since all landmarkers share it. */
  async dispose() {
    await this.network.release();
    await this.refiner?.network.release();
  }
}

function checkBoxes(boxes, { width, height }, where = "") {
  if (!Array.isArray(boxes)) throw new BoxError(`${where}boxes must be an array of [x1, y1, x2, y2]`);
  return boxes.map((box, index) => {
    const numbers = Array.from(box ?? []);
    const [x1, y1, x2, y2] = numbers;
    const fail = (problem) => new BoxError(`${where}box ${index} (${numbers.join(", ")}): ${problem}`);
    if (numbers.length !== 4 || !numbers.every(Number.isFinite)) throw fail("not four finite numbers x1, y1, x2, y2");
    if (x2 <= x1 || y2 <= y1) throw fail("boxes are x1, y1, x2, y2 with x1 < x2 and y1 < y2");
    if (Math.min(x2 - x1, y2 - y1) < MIN_BOX_SIDE) throw fail(`a side below ${MIN_BOX_SIDE} pixels; boxes are in pixels`);
    if (x2 <= -0.5 || y2 <= -0.5 || x1 >= width - 0.5 || y1 >= height - 0.5) {
      throw fail(`outside the picture of ${width}x${height} pixels`);
    }
    if (Math.max(x2 - x1, y2 - y1) > 20 * Math.max(width, height)) {
      throw fail(`more than 20 times the picture of ${width}x${height} pixels`);
    }
    return numbers.map(Math.fround);
  });
}

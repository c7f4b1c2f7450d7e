// Runs jobs under Node: node node_predict.mjs SITE_FOLDER SITE_URL RESULTS.json < jobs.json
// A job is { model, options, how, picture: { file, width, height } } with a file of RGB bytes, or, with `frames` (a list
// of { file, width, height, time }) and `tracking` options, a video. With `written` the results are texts of files.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, base, output] = process.argv.slice(2);
const octamark = await import(pathToFileURL(join(folder, "octamark.js")));
const { load, OctamarkError, Tracker } = octamark;
const { cutCrop } = await import(pathToFileURL(join(folder, "lib/picture.js")));
const { MotionFilter, pointsOf, spreadOf } = await import(pathToFileURL(join(folder, "lib/motion.js")));
const ort = await import(pathToFileURL(join(folder, "ort/ort.wasm.bundle.min.mjs")));
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmBinary = readFileSync(join(folder, "ort/ort-wasm-simd-threaded.wasm"));

const landmarkers = new Map();
async function landmarkerOf(model, options) {
  const key = JSON.stringify([model, options]);
  if (!landmarkers.has(key)) landmarkers.set(key, await load(model, { base, ort, ...options }));
  return landmarkers.get(key);
}

function values(face) {
  const { landmarks, spread, confidence, visible, box, score, crop, id, pose, eyeOpening, mouthOpening } = face;
  const radius = face.radius(0.9);
  return { landmarks, spread, confidence, visible, box, score, crop, id, pose, eyeOpening, mouthOpening, radius };
}

function filtered(layout, smoothing, [first, ...readings]) {
  const filter = new MotionFilter(layout, smoothing);
  let estimate = filter.start(first.time, first.points, first.spread, first.visible);
  return readings.map(({ time, points, spread, visible }) => {
    estimate = filter.update(filter.predict(estimate, time), points, spread, visible);
    return { points: pointsOf(estimate), spread: spreadOf(estimate, spread) };
  });
}

function texts(model, faces) {
  const records = [{ file: "a.png", model, faces }];
  return { json: octamark.toJson(records), csv: octamark.toCsv(records), coco: octamark.toCoco(records) };
}

const read = ({ file, width, height }) => ({ data: new Uint8Array(readFileSync(file)), width, height });
function cut(picture, transform, size) {
  const pixels = new Uint8Array(size * size * 3);
  cutCrop({ ...picture, channels: 3 }, transform, size, pixels);
  return Array.from(pixels);
}

async function run({ model, options = {}, how = {}, picture, written, ...others }) {
  const { transforms, size, frames, tracking, readings, smoothing } = others;
  if (model === undefined && !transforms) return Object.keys(octamark);
  if (transforms) return transforms.map((transform) => cut(read(picture), transform, size));
  const landmarker = await landmarkerOf(model, options);
  if (!picture && !readings && !frames) return landmarker.layout;
  if (readings) return filtered(landmarker.layout, smoothing, readings);
  if (written) return texts(landmarker.card.name, await landmarker(read(picture), how));
  if (!frames) return (await landmarker(read(picture), how)).map(values);
  const tracker = new Tracker(landmarker, tracking);
  const results = [];
  for (const frame of frames) results.push((await tracker.track(read(frame), frame.time)).map(values));
  return results;
}

const results = [];
for (const job of JSON.parse(readFileSync(0))) {
  try {
    results.push(await run(job));
  } catch (error) {
    if (!(error instanceof OctamarkError)) throw error;
    results.push({ error: error.name, message: error.message });
  }
}
writeFileSync(output, JSON.stringify(results));
process.exit(0); // ONNX Runtime keeps the process alive

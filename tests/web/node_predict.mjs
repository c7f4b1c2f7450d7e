// Runs jobs under Node: node node_predict.mjs SITE_FOLDER SITE_URL RESULTS.json < jobs.json
// A job is { model, options, how, picture: { file, width, height } } with a file of RGB bytes, or, with `frames` (a list
// of { file, width, height, time }) and `tracking` options, a video.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, base, output] = process.argv.slice(2);
const { load, Tracker } = await import(pathToFileURL(join(folder, "octamark.js")));
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
  const { landmarks, spread, confidence, box, score, crop, id, pose, eyeOpening, mouthOpening } = face;
  return { landmarks, spread, confidence, box, score, crop, id, pose, eyeOpening, mouthOpening, radius: face.radius(0.9) };
}

function filtered(layout, smoothing, [first, ...readings]) {
  const filter = new MotionFilter(layout, smoothing);
  let estimate = filter.start(first.time, first.points, first.spread);
  return readings.map(({ time, points, spread }) => {
    estimate = filter.update(filter.predict(estimate, time), points, spread);
    return { points: pointsOf(estimate), spread: spreadOf(estimate, spread) };
  });
}

const read = ({ file, width, height }) => ({ data: new Uint8Array(readFileSync(file)), width, height });
const results = [];
for (const { model, options = {}, how = {}, picture, frames, tracking, readings, smoothing } of JSON.parse(readFileSync(0))) {
  const landmarker = await landmarkerOf(model, options);
  if (readings) results.push(filtered(landmarker.layout, smoothing, readings));
  else if (frames) {
    const tracker = new Tracker(landmarker, tracking);
    const faces = [];
    for (const frame of frames) faces.push((await tracker.track(read(frame), frame.time)).map(values));
    results.push(faces);
  } else results.push((await landmarker(read(picture), how)).map(values));
}
writeFileSync(output, JSON.stringify(results));
process.exit(0); // ONNX Runtime keeps the process alive

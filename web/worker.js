/**
 * The worker behind the page: it holds the networks, so that the page stays quick. Messages are { id, task, ... };
 * answers { id, result } or { id, error }.
 */
import { Tracker, load } from "./octamark.js";

const landmarkers = new Map();
let tracker = null;

function landmarkerOf(model, options) {
  const key = JSON.stringify([model, options]);
  if (!landmarkers.has(key)) {
    const loading = load(model, options);
    loading.catch(() => landmarkers.delete(key));
    landmarkers.set(key, loading);
  }
  return landmarkers.get(key);
}

const TASKS = {
  async load({ model, options }) {
    const { card, layout } = await landmarkerOf(model, options);
    return { card: { name: card.name }, layout: layout.table, head: layout.head };
  },

  /** The first runs are slow, since the browser still compiles; after these they are not. */
  async warmUp({ model, options }) {
    const landmarker = await landmarkerOf(model, options);
    const grey = { data: new Uint8Array(320 * 320 * 3).fill(128), width: 320, height: 320 };
    for (let round = 0; round < 3; round++) {
      await landmarker(grey);
      await landmarker(grey, { boxes: [[80, 80, 240, 240]], heatmaps: true });
    }
  },

  async read({ model, options, picture, how }) {
    const landmarker = await landmarkerOf(model, options);
    return timed(picture, () => landmarker(picture, { ...how, heatmaps: true }));
  },

  async startVideo({ model, options, tracking }) {
    tracker = new Tracker(await landmarkerOf(model, options), tracking);
  },

  async track({ picture, time }) {
    return timed(picture, () => tracker.track(picture, time));
  },
};

async function timed(picture, predict) {
  try {
    const start = performance.now();
    const faces = await predict();
    const milliseconds = performance.now() - start;
    return { width: faces.width, height: faces.height, milliseconds, faces: Array.from(faces, plain) };
  } finally {
    picture.close();
  }
}

/** What of a face goes to the page; of its heatmaps, the strongest at each place, each scaled to its own peak. */
function plain({ layout, heatmaps, ...values }) {
  return heatmaps ? { ...values, heat: strongest(heatmaps, layout.count) } : values;
}

function strongest(maps, count) {
  const size = maps.length / count;
  const result = new Float32Array(size);
  for (let index = 0; index < count; index++) {
    const map = maps.subarray(index * size, (index + 1) * size);
    const peak = map.reduce((most, value) => Math.max(most, value), 1e-30);
    for (let at = 0; at < size; at++) result[at] = Math.max(result[at], map[at] / peak);
  }
  return result;
}

self.onmessage = async ({ data: { id, task, ...values } }) => {
  try {
    self.postMessage({ id, result: await TASKS[task](values) });
  } catch (error) {
    self.postMessage({ id, error: { name: error.name, message: error.message } });
  }
};

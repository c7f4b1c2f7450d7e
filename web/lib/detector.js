/**
 * Face detection with YuNet: W. Wu, H. Peng and S. Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine
 * Intelligence Research, 2023. Where to look, and when to stop, is octamark's own (octamark.inference.search in Python):
 *
 * 1. The picture with its longer side at 320 pixels; enough if the faces are large and sure and nothing hints at others.
 * 2. The picture at 640 pixels, and its small weak candidates once more, each enlarged in a small window.
 * 3. If there is still no face, but a candidate: the picture at 192 pixels with a border, and turned by 90, 270 and 180
 *    degrees.
 */
import { inSteps, roundHalfEven } from "./geometry.js";
import { cutCrop, halved, resized, turned } from "./picture.js";

const STRIDES = [8, 16, 32];
const OUTPUTS = STRIDES.flatMap((stride) => [`cls_${stride}`, `obj_${stride}`, `bbox_${stride}`]);
const MAX_IOU = 0.3;
const MAX_CANDIDATES = 5000;

const FIRST_SIDE = 320; // longer side of the first look, and of the turned ones
const SECOND_SIDE = 640; // of the second look
const BORDERED_SIDE = 192;
const BORDER = 64;
const MAX_ENLARGEMENT = 2;
const MIN_SIDE = 64; // a thinner picture is padded to this side
const WEAK = 0.02; // least score of a candidate
const FAINT = 0.01; // where no other candidate is a face
const SURE = 0.7; // least score of each face of a first look that is enough, and of a face seen only in a window
const LARGE = 0.15; // least side of each of its faces, as a share of the picture's longer side
const HINT = 0.2; // a large candidate of this score calls for the second look
const CLOSER_HINT = 0.35; // so does a small one of which a closer look shows this score
const CLOSER_SIDE = 48; // smaller candidates of the second look are seen once more in a window, pixels of that look
const WINDOW = 96;
const MARGIN = 2; // least side of a window, relative to the candidate's
const ZOOM = 2; // size of the picture in a window relative to the second look's
const LARGER_ZOOM = 3; // where the first shows no face
const MAX_WINDOWS = 12;
const EVIDENCE = 0.1; // least score of a candidate for which the third step is made
const TURNED_EVIDENCE = 0.2; // and for which a turned picture is searched at 640 pixels
const MAX_UNSURE = 50;
const DUPLICATE_OVERLAP = 0.5;

/**
 * The candidates of a picture, largest first: { box, score, turns }, `turns` being the quarter turns of the picture,
 * counter-clockwise, in which each was seen. Where one has a score of at least `threshold`, all have.
 *
 * @param run (planes, height, width) -> outputs of YuNet by name
 */
export async function searchFaces(picture, threshold, run) {
  const found = await search(new Views(picture, run, Math.min(FAINT, threshold)), threshold);
  return sortedBy(found.map((candidate) => ({ ...candidate, box: candidate.box.map(inSteps) })), side);
}

async function search(views, threshold) {
  const first = await views.look(FIRST_SIDE);
  if (await isEnough(first, threshold, views)) return first.filter(({ score }) => score >= threshold);
  const second = await views.look(SECOND_SIDE);
  const isSure = ({ score }) => score >= Math.max(threshold, SURE);
  const small = smallAndUnsure(second, threshold, CLOSER_SIDE * views.secondPixel);
  const weak = small.filter(({ score }) => score >= WEAK);
  let candidates = merged(threshold, [...first, ...second, ...(await views.closer(weak, ZOOM)).filter(isSure)]);
  if (bestScore(candidates) < threshold) {
    candidates = merged(threshold, [...candidates, ...(await views.closer(small, LARGER_ZOOM)).filter(isSure)]);
  }
  if (bestScore(candidates) >= threshold || bestScore(candidates) < EVIDENCE) return candidates;
  candidates = merged(threshold, [...candidates, ...(await views.look(BORDERED_SIDE, { border: BORDER }))]);
  if (bestScore(candidates) >= threshold) return candidates;
  let turnedOne = [];
  for (const turns of [1, 3, 2]) {
    const seen = await views.look(FIRST_SIDE, { turns });
    if (bestScore(seen) > bestScore(turnedOne)) turnedOne = seen;
  }
  if (bestScore(turnedOne) >= TURNED_EVIDENCE) {
    const { turns } = turnedOne[0];
    turnedOne = merged(threshold, [...turnedOne, ...(await views.look(SECOND_SIDE, { turns }))]);
  }
  return merged(threshold, [...candidates, ...turnedOne]);
}

/** A picture at the sizes in which it is looked at. */
class Views {
  constructor(picture, run, least) {
    this.picture = picture;
    this.run = run;
    this.least = least;
    this.longer = Math.max(picture.width, picture.height);
    [this.base, this.factor] = halved(picture, SECOND_SIDE);
    this.secondPixel = Math.max(this.longer / SECOND_SIDE, 1 / MAX_ENLARGEMENT);
  }

  /** The candidates in the picture with that longer side, turned counter-clockwise by quarters of a circle. */
  async look(longer, { border = 0, turns = 0 } = {}) {
    let [view, factor] = halved(this.base, longer);
    const { width, height } = view;
    factor *= this.factor;
    const scale = Math.min(longer / Math.max(width, height), MAX_ENLARGEMENT / factor);
    const [newWidth, newHeight] = [width, height].map((length) => Math.max(1, roundHalfEven(length * scale)));
    if (newWidth !== width || newHeight !== height) view = resized(view, newWidth, newHeight);
    view = turned(view, turns);
    const found = await findFaces(bordered(view, border), this.least, this.run);
    const [x, y] = [(factor * width) / newWidth, (factor * height) / newHeight];
    return found
      .map(({ box, score }) => ({ box: box.map((value) => value - border), score, turns }))
      .filter(({ box: [x1, y1, x2, y2] }) => {
        const [u, v] = [(x1 + x2) / 2, (y1 + y2) / 2];
        return u >= 0 && v >= 0 && u <= view.width && v <= view.height;
      })
      .map((candidate) => {
        const [x1, y1, x2, y2] = turnedBack(candidate.box, turns, newWidth, newHeight);
        const box = [x1 * x - 0.5, y1 * y - 0.5, x2 * x - 0.5, y2 * y - 0.5].map(Math.fround);
        return { ...candidate, box };
      });
  }

  /** What is seen in a window around each of the best of some candidates. */
  async closer(candidates, zoom) {
    const results = [];
    for (const candidate of sortedBy(candidates, ({ score }) => score).slice(0, MAX_WINDOWS)) {
      const [x1, y1, x2, y2] = candidate.box;
      const pixel = Math.max(this.secondPixel / zoom, side(candidate) * (MARGIN / WINDOW));
      const half = (WINDOW / 2 - 0.5) * pixel;
      const [left, top] = [(x1 + x2) / 2 - half, (y1 + y2) / 2 - half];
      const window = { data: new Uint8Array(WINDOW * WINDOW * 3), width: WINDOW, height: WINDOW, channels: 3 };
      cutCrop(this.picture, [pixel, 0, left, 0, pixel, top], WINDOW, window.data);
      for (const { box, score } of await findFaces(window, this.least, this.run)) {
        const [u1, v1, u2, v2] = box;
        if (u1 > 1 && v1 > 1 && u2 < WINDOW - 1 && v2 < WINDOW - 1) {
          const placed = box.map((value, axis) => Math.fround((value - 0.5) * pixel + (axis % 2 ? top : left)));
          results.push({ box: placed, score, turns: 0 });
        }
      }
    }
    return results;
  }
}

/** The faces of a picture, found in one run of the network, highest score first; boxes measure from its corner. */
async function findFaces(picture, least, run) {
  const { data, width, height, channels } = picture;
  const [rows, columns] = [height, width].map((length) => Math.ceil(length / 32) * 32);
  const planes = new Float32Array(3 * rows * columns);
  const plane = rows * columns;
  for (let y = 0, from = 0; y < height; y++) {
    for (let x = 0, to = y * columns; x < width; x++, to++, from += channels) {
      planes[to] = data[from + 2]; // blue first
      planes[to + plane] = data[from + 1];
      planes[to + 2 * plane] = data[from];
    }
  }
  const outputs = await run(planes, rows, columns, OUTPUTS);
  const found = [];
  for (const stride of STRIDES) {
    const [cls, obj, bbox] = [outputs[`cls_${stride}`], outputs[`obj_${stride}`], outputs[`bbox_${stride}`]];
    const across = columns / stride;
    for (let index = 0; index < cls.length; index++) {
      const score = Math.fround(Math.sqrt(Math.fround(clip(cls[index]) * clip(obj[index]))));
      if (!(score > least)) continue;
      const x = ((index % across) + bbox[4 * index]) * stride;
      const y = (Math.floor(index / across) + bbox[4 * index + 1]) * stride;
      const halfWidth = (Math.exp(bbox[4 * index + 2]) * stride) / 2;
      const halfHeight = (Math.exp(bbox[4 * index + 3]) * stride) / 2;
      found.push({ box: [x - halfWidth, y - halfHeight, x + halfWidth, y + halfHeight].map(Math.fround), score });
    }
  }
  return suppressed(found);
}

function clip(value) {
  return Math.min(Math.max(value, 0), 1);
}

/** The faces without those that overlap one of a higher score; corners and sizes are whole numbers, as in OpenCV. */
function suppressed(found) {
  const kept = [];
  for (const face of sortedBy(found, ({ score }) => score).slice(0, MAX_CANDIDATES)) {
    const [x1, y1, x2, y2] = face.box;
    const [left, top] = [Math.trunc(x1), Math.trunc(y1)];
    face.whole = [left, top, left + Math.trunc(x2 - x1), top + Math.trunc(y2 - y1)];
    if (kept.every((other) => iou(face.whole, other.whole) <= MAX_IOU)) kept.push(face);
  }
  return kept.map(({ box, score }) => ({ box, score }));
}

function iou(first, second) {
  const shared = overlap(first, second);
  const union = area(first) + area(second) - shared;
  return union > 0 ? shared / union : 1;
}

function overlap(first, second) {
  const width = Math.min(first[2], second[2]) - Math.max(first[0], second[0]);
  const height = Math.min(first[3], second[3]) - Math.max(first[1], second[1]);
  return Math.max(width, 0) * Math.max(height, 0);
}

function area([x1, y1, x2, y2]) {
  return (x2 - x1) * (y2 - y1);
}

/** A picture with a black border, and padded to the least side that the network takes. */
function bordered(picture, border) {
  const { data, channels } = picture;
  const width = picture.width + 2 * border + Math.max(0, MIN_SIDE - picture.width);
  const height = picture.height + 2 * border + Math.max(0, MIN_SIDE - picture.height);
  if (width === picture.width && height === picture.height) return picture;
  const out = new Uint8Array(width * height * 3);
  for (let y = 0, from = 0; y < picture.height; y++) {
    for (let x = 0, to = ((y + border) * width + border) * 3; x < picture.width; x++, to += 3, from += channels) {
      out[to] = data[from];
      out[to + 1] = data[from + 1];
      out[to + 2] = data[from + 2];
    }
  }
  return { data: out, width, height, channels: 3 };
}

/** A box in the picture of that size, given the box in that picture after quarter turns counter-clockwise. */
function turnedBack([x1, y1, x2, y2], turns, width, height) {
  if (turns === 1) return [width - y2, x1, width - y1, x2];
  if (turns === 2) return [width - x2, height - y2, width - x1, height - y1];
  if (turns === 3) return [y1, height - x2, y2, height - x1];
  return [x1, y1, x2, y2];
}

/** Whether the candidates of the first look are large, sure faces, and a closer look shows no other beside them. */
async function isEnough(candidates, threshold, views) {
  const faces = candidates.filter(({ score }) => score >= threshold);
  if (!faces.length || faces.some(({ score }) => score < SURE)) return false;
  const small = LARGE * views.longer;
  const others = candidates.filter((candidate) => candidate.score < threshold && !isInside(candidate, faces));
  if (faces.some((face) => side(face) < small) || others.some(({ score }) => score >= HINT)) return false;
  const weak = smallAndUnsure(candidates, threshold, small).filter(({ score }) => score >= WEAK);
  return weak.length <= MAX_WINDOWS && bestScore(await views.closer(weak, ZOOM)) < CLOSER_HINT;
}

/** The candidates that are smaller than `limit`, and neither faces nor parts of one. */
function smallAndUnsure(candidates, threshold, limit) {
  const faces = candidates.filter(({ score }) => score >= threshold);
  return candidates.filter(
    (candidate) => side(candidate) < limit && candidate.score < threshold && !isInside(candidate, faces),
  );
}

/** Whether the centre of a candidate lies in one of the faces' boxes. */
function isInside({ box }, faces) {
  const [x, y] = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
  return faces.some(({ box: [x1, y1, x2, y2] }) => x >= x1 && y >= y1 && x <= x2 && y <= y2);
}

/** The faces of several looks, highest score first, each place once; where there are none, the other candidates. */
function merged(threshold, together) {
  const best = bestScore(together) >= threshold
    ? sortedBy(together.filter(({ score }) => score >= threshold), ({ score }) => score)
    : sortedBy(together, ({ score }) => score).slice(0, MAX_UNSURE);
  const kept = [];
  for (const candidate of best) {
    const least = (other) => Math.min(area(candidate.box), area(other.box));
    const isNew = (other) => overlap(candidate.box, other.box) <= DUPLICATE_OVERLAP * least(other);
    if (kept.every(isNew)) kept.push(candidate);
  }
  return kept;
}

function bestScore(candidates) {
  return candidates.reduce((best, { score }) => Math.max(best, score), 0);
}

function side({ box }) {
  return Math.sqrt(area(box));
}

function sortedBy(items, value) {
  return [...items].sort((first, second) => value(second) - value(first));
}

const MIN_SCORE = 0.1; // least detector score of a candidate that the landmark network reads
const MIN_CONFIDENCE = 0.35; // least mean confidence of a face
const MAX_READ = 8;

/**
 * The candidates that are faces. Where the detector is unsure, the landmark network decides: first the best candidate
 * alone, and the others only if that one is a face.
 *
 * @param meanConfidences (candidates) -> the mean confidence of each in its upright crop
 */
export async function confirmedFaces(candidates, threshold, meanConfidences) {
  const faces = candidates.filter(({ score }) => score >= threshold);
  if (faces.length) return faces;
  const areFaces = async (some) => {
    const confidences = some.length ? await meanConfidences(some) : [];
    return some.filter((_, index) => confidences[index] >= MIN_CONFIDENCE);
  };
  const best = sortedBy(candidates, ({ score }) => score)
    .slice(0, MAX_READ)
    .filter(({ score }) => score >= MIN_SCORE);
  let confirmed = await areFaces(best.slice(0, 1));
  if (confirmed.length) confirmed = [...confirmed, ...(await areFaces(best.slice(1)))];
  return candidates.filter((candidate) => confirmed.includes(candidate));
}

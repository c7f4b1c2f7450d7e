/**
 * The frames of a video in, faces with stable ids and steady points out (octamark.inference.tracker in Python).
 *
 * A frame is read where the faces are expected, in upright crops around their predicted landmarks. The face detector
 * runs when no face is tracked, when one is missing, and now and then to find newcomers.
 */
import { ConfigError, checkChoice, checkNumber } from "./errors.js";
import { Face, Faces } from "./faces.js";
import {
  Crop, cropTransform, detectorSquare, distance, landmarkBox, mean, procrustesAlign, squareAround, tilt, uprightSquare,
} from "./geometry.js";
import { MotionFilter, pointsOf, sizeOf, spreadOf, toFace, toPicture as toPicturePoint } from "./motion.js";
import { cutCrop, toPicture } from "./picture.js";

const USUAL_SHARE = 0.5; // a face is also unsure below this share of its usual confidence
const NEW_SHARE = 1 / 3; // a new face needs this share of minConfidence
const USUAL_TIME = 1; // seconds over which the usual confidence is averaged
const RETRY = 0.1; // seconds between two searches while a face is missing
const SAME_PLACE = 0.5; // two readings are of one face if their points lie less than this many sizes apart
const REACH = 1; // how far from where it is expected a face may appear, in sizes
const REACH_GROWTH = 3; // and that on top for each second since it was seen
const FAR_REACH = 2; // factor to both for a missing face, where no other can be the one that is read
const MAX_SIZE_CHANGE = 0.7; // of the logarithm
const MAX_SHAPE_CHANGE = 0.25; // median distance of the points after both shapes were laid on each other, sizes
const CUT_SHAPE = 0.07; // at a cut, every face differs from the one before by more than this in shape
const CUT_LOOK = 0.5; // or by this in looks
const OVERLAP = 1.5; // faces may hide parts of each other where they are nearer than so many times the sum of their sizes
const CUT_TIME = 0.15; // seconds between two frames up to which a cut is looked for
const CLEAR_SHARE = 0.8; // a reading of this share of the normal clarity is clear
const SHAPE_WEIGHT = 4;
const LOOK_WEIGHT = 2;
const SAME_APPEARANCE = 0.8; // a missing face and a new reading are one face below this cost
const RECOGNITION_MARGIN = 0.1; // by how much another face has to fit better before two exchange their ids
const LOOK_SIDE = 12; // side of the picture of a face by which tracks are told apart
const SQUARE_DISTANCE = 0.35; // of the smaller crop's side: the detector sees a face that is tracked already
const UNMATCHED = 1000;
const RESTART = 0.25; // seconds without a reading after which the motion of a face is forgotten

const DEFAULTS = { smoothing: "low", detectEvery: 0.5, maxGap: 1, minConfidence: 0.3 };

/** Follows the faces of one video. */
export class Tracker {
  /**
   * @param landmarker of `load`
   * @param options smoothing ("none", "low", "high"), detectEvery and maxGap in seconds, minConfidence
   */
  constructor(landmarker, options = {}) {
    const unknown = Object.keys(options).filter((name) => !(name in DEFAULTS));
    if (unknown.length) {
      throw new ConfigError(`unknown option ${unknown.join(", ")}; options: ${Object.keys(DEFAULTS).join(", ")}`);
    }
    this.options = { ...DEFAULTS, ...options };
    checkChoice("smoothing", this.options.smoothing, ["none", "low", "high"]);
    checkNumber("detectEvery", this.options.detectEvery, 0, 3600);
    checkNumber("maxGap", this.options.maxGap, 0, 3600);
    checkNumber("minConfidence", this.options.minConfidence, 0, 1);
    this.landmarker = landmarker;
    this.filter = new MotionFilter(landmarker.layout, this.options.smoothing);
    this.reset();
  }

  /** Forgets all faces and the time; ids begin at 1 again. */
  reset() {
    this.tracks = [];
    this.nextId = 1;
    this.time = null;
    this.searched = null;
    this.size = null;
  }

  /**
   * The faces of the next frame, each with its `id`. With smoothing, landmarks are filtered and spread is the filter's.
   * @param source what the landmarker takes
   * @param {number} time of the frame in seconds, later than the one before
   */
  async track(source, time) {
    if (typeof time !== "number" || !Number.isFinite(time)) {
      throw new ConfigError(`time ${time}; allowed: a finite number of seconds`);
    }
    if (this.time !== null && !(time > this.time)) {
      throw new ConfigError(`time ${time} s is not later than that of the frame before, ${this.time} s; use reset()`);
    }
    const picture = await toPicture(source);
    const size = `${picture.width}x${picture.height}`;
    if (size !== this.size) Object.assign(this, { tracks: [], size, searched: null });
    const before = this.time;
    this.time = time;
    let steps = this.tracks.map(({ motion }) => {
      const step = this.filter.predict(motion, time);
      return { ...step, points: pointsOf(step.estimate) };
    });
    let readings = distinct(await this.#readFollowed(picture, steps));
    let pairs = this.#assigned(steps, readings);
    if (this.#isCut(before, steps, readings, pairs)) {
      this.tracks = [];
      steps = [];
      pairs = new Map();
    }
    const lostNow = this.tracks.some((track, index) => !pairs.has(index) && track.motion.time === before);
    if (this.#searchIsDue(time, lostNow, pairs.size < steps.length)) {
      this.searched = time;
      readings = distinct(await this.#search(picture, readings));
      pairs = this.#assigned(steps, readings);
    }
    this.#recognise(time, readings, pairs);
    return this.#advanced(picture, time, steps, readings, pairs);
  }

  /** The readings in the crops around the predicted landmarks of the tracks, without unsure ones. */
  async #readFollowed(picture, steps) {
    const readings = await this.#readAround(picture, steps.map(({ points }) => points));
    return readings.filter((reading, index) => {
      const needed = Math.min(this.options.minConfidence, USUAL_SHARE * this.tracks[index].usual);
      return reading !== null && reading.meanConfidence >= needed;
    });
  }

  /** The readings in upright crops around expected landmarks; null where these lie beside the picture. */
  async #readAround(picture, expected) {
    const { card, layout } = this.landmarker;
    const places = [];
    const faces = [];
    expected.forEach((points, place) => {
      const angle = layout.diagram ? tilt(points, layout.diagram) : 0;
      const square = uprightSquare(points, angle, card.crop.margin);
      if (square[2] > 1 && reachesInto(square, picture)) {
        places.push(place);
        const crop = new Crop(picture, cropTransform(square, card.crop.size, angle), square.slice(0, 2));
        faces.push({ crop, box: null, score: 0 });
      }
    });
    const result = new Array(expected.length).fill(null);
    (await this.#read(picture, faces, "never")).forEach((reading, index) => (result[places[index]] = reading));
    return result;
  }

  /** The readings of new faces, from crops around their landmarks: those that they will have in the next frame. */
  async #readTwice(picture, faces) {
    const first = await this.#read(picture, faces);
    const again = await this.#readAround(picture, first.map(({ points }) => points));
    return first.map((reading, index) => {
      const second = again[index];
      if (second === null || second.meanConfidence < USUAL_SHARE * reading.meanConfidence) return reading;
      return { ...second, box: reading.box, score: reading.score };
    });
  }

  async #read(picture, faces, rotation) {
    if (!faces.length) return [];
    const read = await this.landmarker.readLocated({ picture, faces }, { rotation, keepUnsure: true });
    return read.map((face, index) => ({
      points: face.landmarks,
      spread: face.spread,
      confidence: face.confidence,
      visible: face.visible,
      meanConfidence: face.meanConfidence,
      clarity: face.confidence.reduce((sum, value) => sum + value, 0) / face.confidence.length, // of all points, hidden too
      crop: face.crop,
      box: faces[index].box,
      score: faces[index].score,
      radiusRatios: face.radiusRatios,
      look: lookOf(picture, face.landmarks),
    }));
  }

  #searchIsDue(time, lostNow, missing) {
    if (this.searched === null || !this.tracks.length || lostNow) return true;
    const elapsed = time - this.searched;
    return elapsed >= this.options.detectEvery / this.tracks.length || (missing && elapsed >= RETRY);
  }

  /** The readings with the boxes of the detector, and those of further faces that it finds. */
  async #search(picture, readings) {
    const rule = this.landmarker.card.crop;
    const located = await this.landmarker.locate(picture);
    const result = readings.map((reading) => ({ ...reading }));
    const around = readings.map(({ points }) => squareAround(landmarkBox(points), rule.margin));
    const further = located.faces.filter(({ box, score }) => {
      const square = detectorSquare(box, rule.detector_scale, rule.detector_shift);
      const same = result.filter((_, index) => isSameSquare(square, around[index]));
      for (const reading of same) Object.assign(reading, { box, score });
      return !same.length;
    });
    const kept = result.filter(({ box, meanConfidence }) => box !== null || meanConfidence >= this.options.minConfidence);
    return [...kept, ...(await this.#readTwice(picture, further))];
  }

  /** Number of the track -> number of its reading. Faces that were seen in the last frame choose first. */
  #assigned(steps, readings) {
    const latest = this.tracks.reduce((last, { motion }) => Math.max(last, motion.time), 0);
    const pairs = new Map();
    for (const seen of [true, false]) {
      const rows = [...this.tracks.keys()].filter((index) => (this.tracks[index].motion.time === latest) === seen);
      const taken = new Set(pairs.values());
      const columns = [...readings.keys()].filter((index) => !taken.has(index));
      const costs = rows.map((row) =>
        columns.map((column) => difference(this.tracks[row], steps[row], readings[column])),
      );
      for (const [row, column] of assign(costs, UNMATCHED)) pairs.set(rows[row], columns[column]);
    }
    this.#assignByAppearance(steps, readings, pairs);
    return pairs;
  }

  /**
   * Adds pairs of the tracks and readings that are left: faces that moved fast while they were hidden, or that show
   * themselves in part, with a shape that is still wrong.
   */
  #assignByAppearance(steps, readings, pairs) {
    const rows = [...this.tracks.keys()].filter((index) => !pairs.has(index));
    const taken = new Set(pairs.values());
    const columns = [...readings.keys()].filter((number) => !taken.has(number));
    const cost = (track, step, reading) => {
      const appearance = appearanceDifference(track, reading);
      const seen = track.look.some(Boolean) && reading.look.some(Boolean);
      if (seen && appearance < SAME_APPEARANCE) return appearance;
      return difference(track, step, reading, FAR_REACH, isClear(track, reading) ? MAX_SHAPE_CHANGE : Infinity);
    };
    const costs = rows.map((row) => columns.map((column) => cost(this.tracks[row], steps[row], readings[column])));
    for (const [row, column] of assign(costs, UNMATCHED)) pairs.set(rows[row], columns[column]);
  }

  /** Gives faces that came back half hidden, and can now be seen clearly, the id that fits them best. */
  #recognise(time, readings, pairs) {
    const unclear = [...this.tracks.keys()].filter((index) => time - this.tracks[index].clear.time > RESTART);
    for (const index of unclear.filter((each) => pairs.has(each))) {
      const [track, reading] = [this.tracks[index], readings[pairs.get(index)]];
      if (!isClear(track, reading)) continue;
      const costs = new Map(unclear.map((other) => [other, appearanceDifference(this.tracks[other], reading)]));
      const best = unclear.reduce((least, other) => (costs.get(other) < costs.get(least) ? other : least));
      if (costs.get(best) < costs.get(index) - RECOGNITION_MARGIN) {
        const identity = ({ id, clear, look, normal }) => ({ id, clear, look, normal });
        const other = this.tracks[best];
        this.tracks[index] = { ...track, ...identity(other) };
        this.tracks[best] = { ...other, ...identity(track) };
      }
      unclear.splice(unclear.indexOf(index), 1);
    }
  }

  /**
   * Whether each face of the last frame that was clear then, and is now, turned into another one. Faces that overlap
   * one that is hidden, or hidden in part, do not count: both may be read as one.
   */
  #isCut(before, steps, readings, pairs) {
    const changed = [];
    const hidden = steps.filter((_, index) => this.tracks[index].clear.time !== before);
    for (const [index, number] of pairs) {
      const [track, reading] = [this.tracks[index], readings[number]];
      if (track.clear.time !== before || !isClear(track, reading)) continue;
      if (hidden.some(({ estimate }) => overlap(steps[index].estimate, estimate))) continue;
      const shapes = [steps[index].points, track.points].map((points) => shapeDifference(points, reading.points));
      changed.push(Math.min(...shapes) > CUT_SHAPE || lookDifference(track.look, reading.look) > CUT_LOOK);
    }
    return changed.length > 0 && changed.every(Boolean) && steps[0].estimate.time - (before ?? 0) <= CUT_TIME;
  }

  /** The faces of the frame; the tracks move on. */
  #advanced(picture, time, steps, readings, pairs) {
    const tracks = [];
    const shown = [];
    this.tracks.forEach((track, index) => {
      if (pairs.has(index)) {
        const reading = readings[pairs.get(index)];
        track = this.#continued(track, steps[index], reading);
        shown.push([track, reading]);
      } else if (time - track.motion.time > this.options.maxGap || track.normal < this.options.minConfidence) {
        return; // hidden for too long, or never more than a doubtful face, which is not waited for
      } else {
        track = { ...track, usual: Math.max(track.usual, this.options.minConfidence / USUAL_SHARE) };
      }
      tracks.push(track);
    });
    const followed = new Set(pairs.values());
    readings.forEach((reading, number) => {
      const isNew = reading.box !== null && reading.meanConfidence >= NEW_SHARE * this.options.minConfidence;
      if (followed.has(number) || !isNew) return;
      const motion = this.filter.start(time, reading.points, reading.spread, reading.visible);
      const track = {
        id: this.nextId++,
        motion,
        points: pointsOf(motion),
        clear: { time, points: pointsOf(motion) },
        look: reading.look,
        usual: reading.meanConfidence,
        normal: reading.clarity,
        box: boxInFace(motion, reading.box),
        score: reading.score,
      };
      tracks.push(track);
      shown.push([track, reading]);
    });
    this.tracks = tracks;
    return this.#faces(picture, shown);
  }

  /** A track after a reading. */
  #continued(track, step, reading) {
    const jumped = placeDifference(step.points, step.elapsed, reading.points) === Infinity;
    const motion =
      jumped || step.elapsed > RESTART
        ? this.filter.start(step.estimate.time, reading.points, reading.spread, reading.visible)
        : this.filter.update(step, reading.points, reading.spread, reading.visible);
    const points = pointsOf(motion);
    const next = { ...track, motion, points };
    if (isClear(track, reading)) Object.assign(next, { clear: { time: motion.time, points }, look: reading.look });
    const confidence = reading.meanConfidence;
    const share = Math.min(1, step.elapsed / USUAL_TIME);
    next.usual = track.usual + share * (confidence - track.usual);
    next.normal = Math.max(reading.clarity, track.normal + share * (reading.clarity - track.normal));
    if (reading.box !== null) {
      const box = boxInFace(motion, reading.box);
      Object.assign(next, { usual: Math.min(next.usual, confidence), box, score: reading.score });
    }
    return next;
  }

  #faces(picture, shown) {
    const { layout, options } = this.landmarker;
    const smooth = this.options.smoothing !== "none";
    const faces = shown
      .filter(([, { meanConfidence }]) => meanConfidence >= options.minConfidence)
      .map(([track, reading]) => {
        const [x, y] = toPicturePoint(track.motion, track.box.centre);
        const [halfWidth, halfHeight] = track.box.half.map((value) => value * sizeOf(track.motion));
        return new Face(layout, {
          landmarks: smooth ? track.points : reading.points,
          spread: smooth ? spreadOf(track.motion, reading.spread) : reading.spread,
          confidence: reading.confidence,
          ...(reading.visible ? { visible: reading.visible } : {}),
          box: [x - halfWidth, y - halfHeight, x + halfWidth, y + halfHeight],
          score: track.score,
          crop: reading.crop,
          id: track.id,
          radiusRatios: reading.radiusRatios,
        });
      });
    return Faces.create(layout, picture.width, picture.height, faces);
  }
}

/**
 * Pairs [row, column] with the least sum of costs; a pair of at least `limit` costs more than two left alone. Source: the
 * Hungarian method by shortest augmenting paths (R. Jonker and A. Volgenant, 1987).
 */
export function assign(costs, limit) {
  const side = Math.max(costs.length, costs[0]?.length ?? 0);
  const table = Array.from({ length: side }, (_, row) =>
    Array.from({ length: side }, (__, column) => Math.min((costs[row]?.[column] ?? limit) - limit, 0)),
  );
  const [rowPrice, columnPrice] = [new Float64Array(side), new Float64Array(side)];
  const rowOf = new Int32Array(side).fill(-1);
  for (let row = 0; row < side; row++) {
    const distances = new Float64Array(side).fill(Infinity);
    const before = new Int32Array(side).fill(-1);
    const reached = new Array(side).fill(false);
    let [current, column] = [row, -1];
    for (;;) {
      let next = -1;
      for (let other = 0; other < side; other++) {
        if (reached[other]) continue;
        const reduced = table[current][other] - rowPrice[current] - columnPrice[other];
        if (reduced < distances[other]) [distances[other], before[other]] = [reduced, column];
        if (next < 0 || distances[other] < distances[next]) next = other;
      }
      column = next;
      const step = distances[column];
      rowPrice[row] += step;
      for (let other = 0; other < side; other++) {
        if (reached[other]) {
          rowPrice[rowOf[other]] += step;
          columnPrice[other] -= step;
        } else distances[other] -= step;
      }
      reached[column] = true;
      if (rowOf[column] < 0) break;
      current = rowOf[column];
    }
    while (column >= 0) {
      const earlier = before[column];
      rowOf[column] = earlier < 0 ? row : rowOf[earlier];
      column = earlier;
    }
  }
  return [...rowOf].map((row, column) => [row, column]).filter(([row, column]) => table[row][column] < 0);
}

/** Whether two faces lie so close that one can hide a part of the other. */
function overlap(first, second) {
  const apart = Math.hypot(first.mean[0] - second.mean[0], first.mean[2] - second.mean[2]);
  return apart < OVERLAP * (sizeOf(first) + sizeOf(second));
}

function isClear(track, reading) {
  return reading.clarity >= CLEAR_SHARE * track.normal;
}

/** How little a reading fits a track; infinite where it cannot be that face. The last two arguments widen the limits. */
function difference(track, { estimate, points }, reading, reach = 1, maxShapeChange = MAX_SHAPE_CHANGE) {
  const { time } = estimate;
  const nearest = Math.min(
    placeDifference(points, time - track.motion.time, reading.points, reach, maxShapeChange),
    placeDifference(track.points, time - track.motion.time, reading.points, reach, maxShapeChange),
    placeDifference(track.clear.points, time - track.clear.time, reading.points, reach, maxShapeChange),
  );
  return LOOK_WEIGHT * lookDifference(track.look, reading.look) + nearest;
}

/** How far points are from those expected, by place, size and shape; infinite beyond the limits. */
function placeDifference(expected, elapsed, points, reach = 1, maxShapeChange = MAX_SHAPE_CHANGE) {
  const size = Math.max(extent(expected), 1e-6);
  const change = Math.abs(Math.log(Math.max(extent(points), 1e-6) / size));
  const apart = distance(mean(points), mean(expected)) / size;
  const shape = shapeDifference(expected, points);
  const tooFar = apart > reach * (REACH + REACH_GROWTH * elapsed);
  const impossible = tooFar || change > MAX_SIZE_CHANGE || shape > maxShapeChange;
  return impossible ? Infinity : apart + change + SHAPE_WEIGHT * shape;
}

/** Median distance of points from those expected, in sizes, after both were laid on each other. */
function shapeDifference(expected, points) {
  const left = procrustesAlign(points, expected).map((point, index) => distance(point, expected[index]));
  left.sort((first, second) => first - second);
  const half = left.length >> 1;
  const median = left.length % 2 ? left[half] : (left[half - 1] + left[half]) / 2;
  return median / Math.max(extent(expected), 1e-6);
}

function appearanceDifference(track, reading) {
  const change = Math.abs(Math.log(Math.max(extent(reading.points), 1e-6) / Math.max(extent(track.clear.points), 1e-6)));
  const shape = SHAPE_WEIGHT * shapeDifference(track.clear.points, reading.points);
  return change + shape + LOOK_WEIGHT * lookDifference(track.look, reading.look);
}

/** The pixels of a face, reduced, with mean 0 and length 1; zeros where there is nothing to see. */
function lookOf(picture, points) {
  const square = squareAround(landmarkBox(points), 1);
  const pixels = new Uint8Array(LOOK_SIDE ** 2 * 3);
  if (square[2] <= 1) return new Float64Array(pixels.length);
  cutCrop(picture, cropTransform(square, LOOK_SIDE), LOOK_SIDE, pixels);
  const average = pixels.reduce((sum, value) => sum + value, 0) / pixels.length;
  const centred = Float64Array.from(pixels, (value) => value - average);
  const norm = Math.max(Math.sqrt(centred.reduce((sum, value) => sum + value * value, 0)), 1);
  return centred.map((value) => value / norm);
}

/** One minus the correlation of two looks: 0 to 2; 0 where one of them is black. */
function lookDifference(first, second) {
  if (!first.some(Boolean) || !second.some(Boolean)) return 0;
  return 1 - first.reduce((sum, value, index) => sum + value * second[index], 0);
}

/** The readings without those that show the same face as a more confident one, which takes over their box. */
function distinct(readings) {
  const kept = [];
  for (const reading of [...readings].sort((first, second) => second.meanConfidence - first.meanConfidence)) {
    const same = kept.find((other) => {
      const apart = reading.points.reduce((sum, point, index) => sum + distance(point, other.points[index]), 0);
      const limit = SAME_PLACE * Math.max(extent(reading.points), extent(other.points));
      return apart / reading.points.length < limit;
    });
    if (!same) kept.push({ ...reading });
    else if (same.box === null && reading.box !== null) Object.assign(same, { box: reading.box, score: reading.score });
  }
  return kept;
}

/** Root mean square distance of points from their centre. */
function extent(points) {
  const middle = mean(points);
  return Math.sqrt(points.reduce((sum, point) => sum + distance(point, middle) ** 2, 0) / points.length);
}

/** Centre and half sides of a box in the frame of the face. */
function boxInFace(motion, [x1, y1, x2, y2]) {
  const size = sizeOf(motion);
  return { centre: toFace(motion, [(x1 + x2) / 2, (y1 + y2) / 2]), half: [(x2 - x1) / 2 / size, (y2 - y1) / 2 / size] };
}

function isSameSquare(first, second) {
  const near = distance(first, second) < SQUARE_DISTANCE * Math.min(first[2], second[2]);
  return near && Math.abs(Math.log(first[2] / second[2])) < MAX_SIZE_CHANGE;
}

function reachesInto([x, y, side], { width, height }) {
  return Math.abs(x - width / 2) < (side + width) / 2 && Math.abs(y - height / 2) < (side + height) / 2;
}

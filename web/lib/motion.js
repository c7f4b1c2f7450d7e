/**
 * Motion of one face: a Kalman filter of its landmarks (octamark.inference.motion in Python).
 *
 * A similarity (centre, logarithm of the size, roll) moves all points together and takes the points in the frame of the
 * face to the picture. Each of these 4 + 2 M quantities has a filter of its own, whose state is a position and a
 * velocity that decays. The measurement variance comes from the spread, and is the larger the less likely a point can be
 * seen, where that is known. Where innovations of a part of the face are larger than the filter expects, its variance is
 * raised until they fit, and the result follows the reading.
 *
 * An estimate is { time, mean, covariance }: `mean` holds position and velocity of each quantity, one behind the other,
 * `covariance` the variance of the position, the covariance, and the variance of the velocity.
 */
import { partKind } from "./layout.js";

const FACE = 4;
const FACE_NOISE = 0.06; // of what changes from frame to frame, as a share of the spread: of the face, of a point
const POINT_NOISE = 0.1;
const FACE_DECAY = 0.5; // seconds in which a velocity falls to 1 / e
const POINT_DECAY = 0.08;
const FIRST_SPEED = [0.5, 0.5, 0.15, 0.25];
const FIRST_POINT_SPEED = 0.02;
const FACE_GATES = { single: 14, part: 4 }; // squared innovation over its variance that is faster than expected
const GATES = { single: Infinity, part: 4 }; // a single point that jumps has been misread
const FAST_GATES = { single: 12, part: 3 };
const FAST_PARTS = ["eye", "mouth"];
const OUTLIER = 25; // most that one quantity adds to the mean of its part
const TURNING = 0.3; // how much points of a moving face move in its frame
const HUBER = 1.5;
const RETURN = 0.02;
const MIN_SIZE = 1e-3;
const MIN_VISIBLE = 0.02; // points count as if their `visible` were at least this
const MEAN_ABSOLUTE = Math.sqrt(2 / Math.PI);

/** How much velocities change by themselves: of the centre, the size, the roll, the points. */
const PROCESS = { low: [1, 0.4, 0.5, 0.1], high: [0.1, 0.025, 0.05, 0.005] };

/** The filter of faces of one layout. */
export class MotionFilter {
  constructor(layout, smoothing) {
    const [centre, size, roll, points] = PROCESS[smoothing === "none" ? "low" : smoothing];
    this.count = FACE + 2 * layout.count;
    this.noise = new Float64Array(this.count).fill(points);
    this.noise.set([centre, centre, size, roll]);
    this.part = new Int32Array(this.count);
    const fast = new Array(this.count).fill(false);
    Object.entries(layout.parts).forEach(([name, indices], number) => {
      for (const index of indices) {
        for (const quantity of [FACE + 2 * index, FACE + 2 * index + 1]) {
          this.part[quantity] = number + 1;
          fast[quantity] = FAST_PARTS.includes(partKind(name));
        }
      }
    });
    this.gates = fast.map((isFast, index) => (isFast ? FAST_GATES : index < FACE ? FACE_GATES : GATES));
    this.parts = Object.keys(layout.parts).length + 1;
  }

  /** The estimate of a new face; `visible` of each point, if it is known. */
  start(time, points, spread, visible) {
    const [x, y] = middleOf(points);
    const size = Math.max(rootMeanSquareLength(points, x, y), MIN_SIZE);
    const mean = new Float64Array(2 * this.count);
    mean.set([x, 0, y, 0, Math.log(size), 0, 0, 0]);
    points.forEach(([u, v], index) => {
      mean[2 * (FACE + 2 * index)] = (u - x) / size;
      mean[2 * (FACE + 2 * index + 1)] = (v - y) / size;
    });
    const noise = measurementVariance(spread, size, 0, countsOf(visible));
    const covariance = new Float64Array(3 * this.count);
    for (let index = 0; index < this.count; index++) {
      covariance[3 * index] = noise[index];
      const unit = index < 2 ? size ** 2 : 1;
      covariance[3 * index + 2] = index < FACE ? FIRST_SPEED[index] ** 2 * unit : FIRST_POINT_SPEED ** 2;
    }
    return { time, mean, covariance };
  }

  /** The estimate at a later time without a reading: { estimate, elapsed }. */
  predict(before, time) {
    const elapsed = time - before.time;
    const [face, points] = [motion(elapsed, FACE_DECAY), motion(elapsed, POINT_DECAY)];
    const [size, turning] = [sizeOf(before), TURNING * speedOf(before)];
    const mean = new Float64Array(2 * this.count);
    const covariance = new Float64Array(3 * this.count);
    for (let index = 0; index < this.count; index++) {
      const { along, left, noise } = index < FACE ? face : points;
      const grown = (this.noise[index] + (index < FACE ? 0 : turning)) ** 2 * (index < 2 ? size ** 2 : 1);
      const [position, velocity] = [before.mean[2 * index], before.mean[2 * index + 1]];
      const [p, q, r] = before.covariance.subarray(3 * index, 3 * index + 3);
      mean[2 * index] = position + along * velocity;
      mean[2 * index + 1] = left * velocity;
      covariance[3 * index] = p + 2 * along * q + along * along * r + grown * noise[0];
      covariance[3 * index + 1] = left * (q + along * r) + grown * noise[1];
      covariance[3 * index + 2] = left * left * r + grown * noise[2];
    }
    return { estimate: { time, mean, covariance }, elapsed };
  }

  /** The estimate after a reading of points, spread and, if it is known, `visible`. */
  update({ estimate, elapsed }, points, spread, visible) {
    const { values, noise } = measured(estimate, points, spread, countsOf(visible));
    const innovation = values.map((value, index) => value - estimate.mean[2 * index]);
    const covariance = this.#raised(estimate.covariance, elapsed, innovation, noise);
    const mean = new Float64Array(estimate.mean);
    for (let index = 0; index < this.count; index++) {
      const [p, q] = [covariance[3 * index], covariance[3 * index + 1]];
      const total = p + noise[index];
      mean[2 * index] += (p / total) * innovation[index];
      mean[2 * index + 1] += (q / total) * innovation[index];
      covariance[3 * index] -= (p * p) / total;
      covariance[3 * index + 1] -= (p * q) / total;
      covariance[3 * index + 2] -= (q * q) / total;
    }
    return { time: estimate.time, mean, covariance };
  }

  /** The covariance, raised where innovations are larger than it allows: the face turned, or a point jumped. */
  #raised(before, elapsed, innovation, noise) {
    const covariance = new Float64Array(before);
    const [sums, capped, counts] = [0, 0, 0].map(() => new Float64Array(this.parts));
    const squared = innovation.map((value, index) => value ** 2 / (before[3 * index] + noise[index]));
    squared.forEach((value, index) => {
      sums[this.part[index]] += value;
      capped[this.part[index]] += Math.min(value, OUTLIER);
      counts[this.part[index]] += 1;
    });
    const turn = motion(elapsed, FACE_DECAY).noise;
    squared.forEach((value, index) => {
      const count = Math.max(counts[this.part[index]], 1);
      const { single, part } = this.gates[index];
      const ofPart = capped[this.part[index]] / count > part ? sums[this.part[index]] / count / part : 0;
      const excess = Math.max(value / single, ofPart) - 1;
      if (!(excess > 0)) return;
      const added = excess * (before[3 * index] + noise[index]);
      covariance[3 * index] += added;
      if (index < FACE) {
        covariance[3 * index + 1] += (added * turn[1]) / turn[0];
        covariance[3 * index + 2] += (added * turn[2]) / turn[0];
      }
    });
    return covariance;
  }
}

/** Root mean square distance of the landmarks from the centre, pixels. */
export function sizeOf({ mean }) {
  return Math.exp(mean[4]);
}

/** How fast the similarity changes: sizes, logarithms of the size and radians per second, added. */
function speedOf({ mean }) {
  return Math.hypot(mean[1], mean[3]) / Math.exp(mean[4]) + Math.abs(mean[5]) + Math.abs(mean[7]);
}

/** The landmarks of an estimate, pixels of the picture. */
export function pointsOf(estimate) {
  const { mean } = estimate;
  return Array.from({ length: mean.length / 4 - FACE / 2 }, (_, index) => {
    const at = 2 * (FACE + 2 * index);
    return toPicture(estimate, [mean[at], mean[at + 2]]);
  });
}

/** A point of the face's frame in the picture. */
export function toPicture(estimate, [u, v]) {
  const [cos, sin] = factorOf(estimate);
  return [estimate.mean[0] + cos * u - sin * v, estimate.mean[2] + sin * u + cos * v];
}

/** A point of the picture in the face's frame. */
export function toFace(estimate, [x, y]) {
  const [cos, sin] = factorOf(estimate);
  const [u, v] = [x - estimate.mean[0], y - estimate.mean[2]];
  const square = cos * cos + sin * sin;
  return [(cos * u + sin * v) / square, (cos * v - sin * u) / square];
}

function factorOf({ mean }) {
  const size = Math.exp(mean[4]);
  return [size * Math.cos(mean[6]), size * Math.sin(mean[6])];
}

/**
 * Expected absolute error per axis of the landmarks of an estimate, pixels: what does not change from frame to frame,
 * and what the filter leaves of the rest.
 */
export function spreadOf(estimate, read) {
  const variance = (index) => estimate.covariance[3 * index];
  const [cos, sin] = factorOf(estimate).map((value) => value ** 2);
  const lasting = 1 - MEAN_ABSOLUTE ** 2 * (FACE_NOISE ** 2 + POINT_NOISE ** 2);
  return pointsOf(estimate).map(([x, y], index) => {
    const arm = [(x - estimate.mean[0]) ** 2, (y - estimate.mean[2]) ** 2];
    const own = [variance(FACE + 2 * index), variance(FACE + 2 * index + 1)];
    return [0, 1].map((axis) => {
      const moved =
        variance(axis) + arm[axis] * variance(2) + arm[1 - axis] * variance(3) + own[axis] * cos + own[1 - axis] * sin;
      return Math.sqrt(lasting * read[index][axis] ** 2 + MEAN_ABSOLUTE ** 2 * moved);
    });
  });
}

/** How much each point counts; undefined where all count in full. */
function countsOf(visible) {
  return visible?.map((value) => Math.min(Math.max(value, MIN_VISIBLE), 1));
}

/** The quantities of a reading and their noise, as variances. */
function measured(predicted, points, spread, counts) {
  const shape = points.map((_, index) => {
    const at = 2 * (FACE + 2 * index);
    return [predicted.mean[at], predicted.mean[at + 2]];
  });
  const weights = spread.map(([x, y], index) => (counts?.[index] ?? 1) / Math.max((x * x + y * y) / 2, 1e-12));
  let fit = similarity(shape, points, weights);
  for (let round = 0; round < 2; round++) {
    const residuals = shape.map(([u, v], index) =>
      Math.hypot(
        points[index][0] - fit.x - (fit.cos * u - fit.sin * v),
        points[index][1] - fit.y - (fit.sin * u + fit.cos * v),
      ),
    );
    const limit = HUBER * median(residuals);
    fit = similarity(shape, points, weights.map((weight, index) => weight * Math.min(1, limit / Math.max(residuals[index], 1e-12))));
  }
  if (Math.hypot(fit.cos, fit.sin) < MIN_SIZE) [fit.cos, fit.sin] = [MIN_SIZE, 0];
  // what the fit makes of noise would let the frame of the face shrink slowly
  const [u, v] = middleOf(shape);
  fit.x += RETURN * (fit.cos * u - fit.sin * v);
  fit.y += RETURN * (fit.sin * u + fit.cos * v);
  const back = Math.max(rootMeanSquareLength(shape, u, v), MIN_SIZE) ** RETURN;
  fit.cos *= back;
  fit.sin *= back;
  const size = Math.hypot(fit.cos, fit.sin);
  const angle = Math.atan2(fit.sin, fit.cos);
  const roll = predicted.mean[6];
  const turned = (((angle - roll + Math.PI) % (2 * Math.PI)) + 2 * Math.PI) % (2 * Math.PI);
  const values = new Float64Array(predicted.mean.length / 2);
  values.set([fit.x, fit.y, Math.log(size), roll + turned - Math.PI]);
  points.forEach(([x, y], index) => {
    const [p, q] = [x - fit.x, y - fit.y];
    values[FACE + 2 * index] = (fit.cos * p + fit.sin * q) / size ** 2;
    values[FACE + 2 * index + 1] = (fit.cos * q - fit.sin * p) / size ** 2;
  });
  return { values, noise: measurementVariance(spread, size, angle, counts) };
}

/** Centre (x, y) and factor (cos, sin) of the weighted least squares fit placed = centre + factor * shape. */
function similarity(shape, placed, weights) {
  const total = Math.max(weights.reduce((sum, weight) => sum + weight, 0), 1e-300);
  const middle = (points, axis) => points.reduce((sum, point, index) => sum + weights[index] * point[axis], 0) / total;
  const [u0, v0, x0, y0] = [middle(shape, 0), middle(shape, 1), middle(placed, 0), middle(placed, 1)];
  let [square, along, across] = [0, 0, 0];
  shape.forEach((point, index) => {
    const [u, v] = [point[0] - u0, point[1] - v0];
    const [x, y] = [placed[index][0] - x0, placed[index][1] - y0];
    square += weights[index] * (u * u + v * v);
    along += weights[index] * (u * x + v * y);
    across += weights[index] * (u * y - v * x);
  });
  const [cos, sin] = square > 0 ? [along / square, across / square] : [MIN_SIZE, 0];
  return { x: x0 - (cos * u0 - sin * v0), y: y0 - (sin * u0 + cos * v0), cos, sin };
}

/** Variance of what changes in a reading from frame to frame, of each quantity. */
function measurementVariance(spread, size, angle, counts) {
  const variances = spread.map((pair) => pair.map((value) => Math.max(value ** 2, (1e-4 * size) ** 2)));
  const count = (index) => counts?.[index] ?? 1;
  const total = variances.reduce((sum, _, index) => sum + count(index), 0);
  const face = (FACE_NOISE ** 2 * variances.reduce((sum, [x, y], index) => sum + count(index) * (x + y), 0)) / (2 * total);
  const [cos, sin] = [(Math.cos(angle) / size) ** 2, (Math.sin(angle) / size) ** 2];
  const noise = new Float64Array(FACE + 2 * spread.length);
  noise.set([face, face, face / size ** 2, face / size ** 2]);
  variances.forEach(([x, y], index) => {
    noise[FACE + 2 * index] = (POINT_NOISE ** 2 * (x * cos + y * sin)) / count(index);
    noise[FACE + 2 * index + 1] = (POINT_NOISE ** 2 * (y * cos + x * sin)) / count(index);
  });
  return noise;
}

/**
 * How a position and its velocity move on: position + along * velocity, left * velocity, and the variances that noise of
 * density 1 adds. The velocity decays exponentially and is driven by white noise.
 */
function motion(elapsed, decay) {
  const step = elapsed / decay;
  const left = Math.exp(-step);
  const along = decay * (1 - left);
  if (step < 1e-3) return { along, left, noise: [elapsed ** 3 / 3, elapsed ** 2 / 2, elapsed] };
  const position = (decay ** 3 * (2 * step - 3 + 4 * left - left ** 2)) / 2;
  return { along, left, noise: [position, (decay ** 2 * (1 - left) ** 2) / 2, (decay * (1 - left ** 2)) / 2] };
}

function middleOf(points) {
  const sum = (axis) => points.reduce((total, point) => total + point[axis], 0) / points.length;
  return [sum(0), sum(1)];
}

function rootMeanSquareLength(points, x, y) {
  return Math.sqrt(points.reduce((sum, [u, v]) => sum + (u - x) ** 2 + (v - y) ** 2, 0) / points.length);
}

function median(values) {
  const sorted = [...values].sort((first, second) => first - second);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

/** Calibration: from raw spreads to expected errors and probabilities (octamark.models.calibration in Python). */
import { interpolate } from "./geometry.js";

/** Expected absolute errors [x, y] of the raw spreads of one face's points. */
export function calibratedSpread({ gain, own, face, knots }, raw) {
  const logs = raw.map((pair) => pair.map((value) => Math.log(Math.max(value, 1e-6))));
  const mean = logs.reduce((sum, [x, y]) => sum + x + y, 0) / (2 * logs.length);
  const [[x1, y1], [x2, y2]] = knots.slice(-2);
  const slope = (y2 - y1) / (x2 - x1);
  return logs.map((pair, index) =>
    pair.map((value, axis) => {
      const u = gain[index][axis] * Math.exp(own * value + face * mean);
      return interpolate(knots, u) + Math.max(u - x2, 0) * slope;
    }),
  );
}

/** The probability that a point of that spread [x, y] lies within `radius` of its truth. */
export function within({ ratios }, [x, y], radius) {
  return interpolate(ratios, radius / Math.max(rootMeanSquare(x, y), 1e-12));
}

/** The ratio of the radius that holds a share of the points to the root mean square of their two spreads. */
export function radiusRatio(ratios, share) {
  return interpolate(ratios, share, 1, 0);
}

export function rootMeanSquare(x, y) {
  return Math.sqrt((x * x + y * y) / 2);
}

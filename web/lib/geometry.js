/**
 * Boxes, crops and similarity transforms.
 *
 * Pixel centres are at integer coordinates. Points are [x, y]; boxes are [x1, y1, x2, y2]; squares are
 * [centre x, centre y, side]; transforms are [a, b, c, d, e, f] with x' = a x + b y + c and y' = d x + e y + f.
 */

/** Boxes with a smaller side are refused, pixels. */
export const MIN_BOX_SIDE = 2;

const STEPS_PER_UNIT = 16; // steps of `inSteps` in a pixel, or in a degree

/** A number rounded to the nearest whole one, halves to the even one. */
export function roundHalfEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

/**
 * A number rounded to sixteenths. What a network finds differs between processors in its last digits; a crop whose place
 * is rounded has the same pixels on all of them, and in Python.
 */
export function inSteps(value) {
  return roundHalfEven(value * STEPS_PER_UNIT) / STEPS_PER_UNIT;
}

/** The tight box around points. */
export function landmarkBox(points) {
  let [x1, y1, x2, y2] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const [x, y] of points) {
    if (x < x1) x1 = x;
    if (x > x2) x2 = x;
    if (y < y1) y1 = y;
    if (y > y2) y2 = y;
  }
  return [x1, y1, x2, y2];
}

/** The square around the centre of a box whose side is `scale` times the box's longer one. */
export function squareAround([x1, y1, x2, y2], scale) {
  return [(x1 + x2) / 2, (y1 + y2) / 2, Math.max(x2 - x1, y2 - y1) * scale];
}

/** The square for a detector's box: `scale` times the root of its area, moved by shares of that root. */
export function detectorSquare([x1, y1, x2, y2], scale, shift) {
  const root = Math.sqrt((x2 - x1) * (y2 - y1));
  return [(x1 + x2) / 2 + root * shift[0], (y1 + y2) / 2 + root * shift[1], root * scale];
}

/** The similarity from pixels of a crop to pixels of the picture; `angle` in degrees clockwise. */
export function cropTransform([x, y, side], size, angle = 0) {
  const scale = side / size;
  const radians = (angle * Math.PI) / 180;
  const cos = scale * Math.cos(radians);
  const sin = scale * Math.sin(radians);
  const middle = size / 2 - 0.5;
  return [cos, -sin, x - cos * middle + sin * middle, sin, cos, y - sin * middle - cos * middle];
}

/** A point under a transform. */
export function apply([a, b, c, d, e, f], [x, y]) {
  return [a * x + b * y + c, d * x + e * y + f];
}

/** A spread under a transform: the errors of the two axes are independent, so that their variances add. */
export function applyToSpread([a, b, , d, e], [x, y]) {
  return [Math.hypot(a * x, b * y), Math.hypot(d * x, e * y)];
}

/** The inverse of a transform. */
export function invert([a, b, c, d, e, f]) {
  const det = a * e - b * d;
  const [p, q, r, s] = [e / det, -b / det, -d / det, a / det];
  return [p, q, -(p * c + q * f), r, s, -(r * c + s * f)];
}

/** The mean of points. */
export function mean(points) {
  let [x, y] = [0, 0];
  for (const point of points) {
    x += point[0];
    y += point[1];
  }
  return [x / points.length, y / points.length];
}

/** The distance of two points. */
export function distance(first, second) {
  return Math.hypot(first[0] - second[0], first[1] - second[1]);
}

/** The similarity that takes a reference shape to points with the least squared error (ordinary Procrustes). */
export function fitSimilarity(reference, points) {
  const [u0, v0] = mean(reference);
  const [x0, y0] = mean(points);
  let [size, along, across] = [0, 0, 0];
  for (let index = 0; index < points.length; index++) {
    const u = reference[index][0] - u0;
    const v = reference[index][1] - v0;
    const x = points[index][0] - x0;
    const y = points[index][1] - y0;
    size += u * u + v * v;
    along += u * x + v * y;
    across += u * y - v * x;
  }
  const cos = along / size;
  const sin = across / size;
  return [cos, -sin, x0 - cos * u0 + sin * v0, sin, cos, y0 - sin * u0 - cos * v0];
}

/** Points moved, turned and scaled so that they lie on a reference shape. */
export function procrustesAlign(points, reference) {
  const back = invert(fitSimilarity(reference, points));
  return points.map((point) => apply(back, point));
}

/** Rotation of a face against an upright one, degrees in -180..180, clockwise in the picture. */
export function tilt(points, reference) {
  const fitted = fitSimilarity(reference, points);
  return (Math.atan2(fitted[3], fitted[0]) * 180) / Math.PI;
}

/** The square around points in a frame rotated by `angle`. */
export function uprightSquare(points, angle, margin) {
  const turn = cropTransform([0, 0, 1], 1, angle);
  turn[2] = turn[5] = 0;
  const back = [turn[0], turn[3], 0, turn[1], turn[4], 0];
  const [x, y, side] = squareAround(landmarkBox(points.map((point) => apply(back, point))), margin);
  return [...apply(turn, [x, y]), side];
}

/**
 * Where to read in a picture: a square, turned and scaled, that becomes the input of a network.
 */
export class Crop {
  /**
   * @param picture of picture.js
   * @param {number[]} transform from pixels of the network's input to pixels of the picture
   * @param {number[]} centre point of the picture about which `rotated` turns
   */
  constructor(picture, transform, centre) {
    this.picture = picture;
    this.transform = transform;
    this.centre = centre;
  }

  /** How far the crop is turned against the picture, degrees clockwise. */
  get angle() {
    return (Math.atan2(this.transform[3], this.transform[0]) * 180) / Math.PI;
  }

  /** Side of the crop in pixels of the picture, over that of the network's input. */
  get ratio() {
    return Math.hypot(this.transform[0], this.transform[3]);
  }

  /** The crop after the picture around `centre` was turned by `angle` degrees clockwise. */
  rotated(angle) {
    const [p, q, , r, s] = cropTransform([0, 0, 1], 1, angle);
    const [a, b, c, d, e, f] = this.transform;
    const [x, y] = this.centre;
    const moved = [p * (c - x) + q * (f - y) + x, r * (c - x) + s * (f - y) + y];
    const turned = [p * a + q * d, p * b + q * e, moved[0], r * a + s * d, r * b + s * e, moved[1]];
    return new Crop(this.picture, turned, this.centre);
  }
}

/** 0 up to `low`, 1 from `high` on, and a smooth rise in between (3 t^2 - 2 t^3). */
export function ramp(value, low, high) {
  const t = Math.min(Math.max((value - low) / (high - low), 0), 1);
  return t * t * (3 - 2 * t);
}

/** Linear interpolation in a rising table of pairs, held constant beyond its ends. */
export function interpolate(table, x, from = 0, to = 1) {
  if (x <= table[0][from]) return table[0][to];
  for (let index = 1; index < table.length; index++) {
    const [low, high] = [table[index - 1], table[index]];
    if (x <= high[from]) {
      return low[to] + ((x - low[from]) / (high[from] - low[from])) * (high[to] - low[to]);
    }
  }
  return table[table.length - 1][to];
}

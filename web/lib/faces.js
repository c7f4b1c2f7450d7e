/** Faces: the result of a prediction. Everything is in pixels of the picture, pixel centres at integer coordinates. */
import { ConfigError } from "./errors.js";
import { radiusRatio, rootMeanSquare } from "./calibration.js";
import { openingRatio } from "./layout.js";
import { headPose } from "./pose.js";

export const VISIBLE = 0.5; // from here on a point counts as visible where a yes or no is needed

/** One face. Sides are the person's own. */
export class Face {
  /**
   * @param layout of the landmarks
   * @param values { landmarks, spread, confidence, visible, box, score, crop, heatmaps, id, radiusRatios }
   */
  constructor(layout, values) {
    this.layout = layout;
    Object.assign(this, values);
  }

  /**
   * Mean confidence of the points: how well they are placed, while `score` says whether there is a face. Each counts by
   * its `visible`, where the model tells that.
   */
  get meanConfidence() {
    const { confidence, visible } = this;
    const sum = (values) => values.reduce((total, value) => total + value, 0);
    const seen = visible ? sum(visible) : 0;
    if (seen > 0) return sum(confidence.map((value, index) => value * visible[index])) / seen;
    return sum(confidence) / confidence.length;
  }

  /** Landmarks, spread, confidence and `visible` of one part, or of a group such as "eyes" or "mouth". */
  part(name) {
    const indices = this.layout.part(name);
    const of = (values) => indices.map((index) => values[index]);
    return {
      landmarks: of(this.landmarks),
      spread: of(this.spread),
      confidence: of(this.confidence),
      ...(this.visible ? { visible: of(this.visible) } : {}),
    };
  }

  /** The names of the layout's parts, each with its landmarks. */
  get parts() {
    return Object.fromEntries(Object.keys(this.layout.parts).map((name) => [name, this.part(name).landmarks]));
  }

  /** For each point the radius in pixels that holds the true one with probability `coverage`. */
  radius(coverage) {
    const ratio = this.#ratio(coverage);
    return this.spread.map(([x, y]) => ratio * rootMeanSquare(x, y));
  }

  /** For each point the semi-axes in pixels of an ellipse as `radius` gives a circle: wider where x or y is less sure. */
  ellipses(coverage) {
    const ratio = this.#ratio(coverage);
    return this.spread.map(([x, y]) => [ratio * x, ratio * y]);
  }

  #ratio(coverage) {
    if (typeof coverage !== "number" || !(coverage >= 0 && coverage <= 1)) {
      throw new ConfigError(`coverage ${coverage}; allowed: 0 to 1`);
    }
    return radiusRatio(this.radiusRatios, coverage);
  }

  /** How far the right and the left eye are open: distance of the lids over the eye's width; empty without lids. */
  get eyeOpening() {
    return Object.values(this.layout.eyes).map((eye) => openingRatio(eye, this.landmarks));
  }

  /** How far the mouth is open: distance of the inner lips over the mouth's width; NaN without inner lips. */
  get mouthOpening() {
    return this.layout.mouth ? openingRatio(this.layout.mouth, this.landmarks) : NaN;
  }

  /**
   * Yaw, pitch and roll of the head in degrees: to the person's left, up, and to the right shoulder; null for a layout
   * without a head shape.
   */
  get pose() {
    return this.layout.head ? headPose(this.landmarks, this.layout.head) : null;
  }

  /** The face as plain values, with the fields and digits of octamark's json format. */
  toJSON() {
    const pairs = (values, digits) => values.map((pair) => pair.map((value) => rounded(value, digits)));
    return {
      ...(this.id === undefined ? {} : { id: this.id }),
      box: this.box.map((value) => rounded(value, 2)),
      score: rounded(this.score, 4),
      mean_confidence: rounded(this.meanConfidence, 4),
      landmarks: pairs(this.landmarks, 2),
      spread: pairs(this.spread, 3),
      confidence: this.confidence.map((value) => rounded(value, 4)),
      ...(this.visible ? { visible: this.visible.map((value) => rounded(value, 4)) } : {}),
    };
  }
}

/** The faces of one picture: an array of Face with the layout and the size of the picture. */
export class Faces extends Array {
  static get [Symbol.species]() {
    return Array; // so that map and filter give plain arrays
  }

  static create(layout, width, height, faces) {
    const result = new Faces();
    result.push(...faces);
    return Object.assign(result, { layout, width, height });
  }

  /** The faces as plain values, as `octamark predict` prints them, without the file's name and the model's. */
  toJSON() {
    const { width, height } = this;
    return { width, height, layout: this.layout.name, faces: [...this].map((face) => face.toJSON()) };
  }
}

/** A number with that many digits behind the point; NaN becomes null. */
export function rounded(value, digits) {
  return Number.isFinite(value) ? Number(value.toFixed(digits)) + 0 : null;
}

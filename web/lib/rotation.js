/**
 * Reading faces again in a turned crop: faces that lean, lie or stand on their heads (octamark.inference.rotation in
 * Python). Around the angle from which a face is read again the two results are blended, so that the landmarks are a
 * continuous function of the picture.
 */
import { Crop, cropTransform, inSteps, ramp, tilt, uprightSquare } from "./geometry.js";

const TILT_BAND = [15, 25]; // degrees: below the crop is kept, above the upright one replaces it
const CONFIDENCE_BAND = 0.05; // the upright reading counts half at equal confidence, 0 or 1 where it differs by this
const MIN_GAIN = 0.15; // a quarter turn of a face that seems upright has to raise the confidence by this
const LOST = 0.4; // faces of a lower mean confidence are read again in quarter turns
const LOST_LEANING = 0.6; // the same for faces that lean

/**
 * The readings, each { crop, landmarks }, after the search.
 *
 * First an upright crop around the first landmarks, and another where the face leans in that one too; for a face that is
 * still lost, a quarter, half and three quarters of a turn, and an upright crop around the best of them.
 *
 * @param readings first readings of the faces
 * @param read (crops) -> landmarks of each
 * @param diagram points of an upright face
 * @param rule crop rule of the model's card
 * @param mode "auto", "always" or "never"
 */
export async function searchRotation(readings, read, diagram, rule, mode) {
  if (mode === "never") return readings;
  const lean = ({ crop, landmarks }) => {
    const turn = tilt(landmarks.points, diagram) - crop.angle;
    return ramp(Math.abs(modulo(turn + 180, 360) - 180), ...TILT_BAND);
  };
  const upright = async (faces) => {
    const crops = new Map();
    for (const [index, { crop, landmarks }] of faces) {
      const angle = inSteps(tilt(landmarks.points, diagram));
      const square = uprightSquare(landmarks.points, angle, rule.margin).map(inSteps);
      if (square[2] > 1) crops.set(index, new Crop(crop.picture, cropTransform(square, rule.size, angle), crop.centre));
    }
    const landmarks = await read([...crops.values()]);
    return new Map([...crops].map(([index, crop], place) => [index, { crop, landmarks: landmarks[place] }]));
  };
  const faces = new Map(readings.entries());
  const weights = readings.map(lean);
  const first = await upright([...faces].filter(([index]) => mode === "always" || weights[index] > 0));
  const seconds = new Map([...first].filter(([index]) => weights[index] > 0).map(([index, face]) => [index, lean(face)]));
  for (const [index, face] of await upright([...first].filter(([index]) => seconds.get(index) > 0))) {
    first.set(index, moreConfident(first.get(index), face, seconds.get(index)));
  }
  for (const [index, face] of first) {
    faces.set(index, moreConfident(faces.get(index), face, mode === "always" ? 1 : weights[index]));
  }
  const isLost = ([index, { landmarks }]) => landmarks.meanConfidence < (weights[index] >= 0.5 ? LOST_LEANING : LOST);
  const turned = await quarterTurns([...faces].filter(isLost), weights, read);
  for (const [index, face] of turned) faces.set(index, face);
  for (const [index, face] of await upright(turned)) faces.set(index, moreConfident(faces.get(index), face, 1));
  return [...faces.values()];
}

/** The faces that are read better in a crop turned by 90, 180 or 270 degrees, each with its best turn. */
async function quarterTurns(lost, weights, read) {
  const trials = lost.flatMap(([index, { crop }]) => [90, 180, 270].map((angle) => [index, crop.rotated(angle)]));
  const landmarks = await read(trials.map(([, crop]) => crop));
  const before = new Map(lost);
  const best = new Map();
  trials.forEach(([index, crop], place) => {
    let needed = before.get(index).landmarks.meanConfidence + (weights[index] >= 0.5 ? 0 : MIN_GAIN);
    if (best.has(index)) needed = Math.max(needed, best.get(index).landmarks.meanConfidence);
    if (landmarks[place].meanConfidence > needed) best.set(index, { crop, landmarks: landmarks[place] });
  });
  return best;
}

/** Two readings of a face blended by their confidence; the share of the second is at most `weight`. */
function moreConfident(first, second, weight) {
  const gain = second.landmarks.meanConfidence - first.landmarks.meanConfidence;
  const share = weight * ramp(gain, -CONFIDENCE_BAND, CONFIDENCE_BAND);
  return { crop: (share >= 0.5 ? second : first).crop, landmarks: blend(first.landmarks, second.landmarks, share) };
}

/**
 * What a network read of one face: points, spread [x, y] each in pixels of the picture, confidence, heatmaps if they were
 * asked for, and `visible` if the network tells it.
 */
export class Landmarks {
  constructor(points, spread, confidence, heatmaps, visible) {
    this.points = points;
    this.spread = spread;
    this.confidence = confidence;
    this.heatmaps = heatmaps;
    this.visible = visible;
  }

  get meanConfidence() {
    return this.confidence.reduce((sum, value) => sum + value, 0) / this.confidence.length;
  }
}

/** Two readings of one face as one: `share` of the second, the rest of the first; heatmaps of the larger part. */
export function blend(first, second, share) {
  if (share <= 0) return first;
  if (share >= 1) return second;
  const mixed = (a, b) => (1 - share) * a + share * b;
  const pairs = (a, b) => a.map(([x, y], index) => [mixed(x, b[index][0]), mixed(y, b[index][1])]);
  return new Landmarks(
    pairs(first.points, second.points),
    pairs(first.spread, second.spread),
    first.confidence.map((value, index) => mixed(value, second.confidence[index])),
    (share >= 0.5 ? second : first).heatmaps,
    first.visible?.map((value, index) => mixed(value, second.visible[index])),
  );
}

function modulo(value, by) {
  return ((value % by) + by) % by;
}

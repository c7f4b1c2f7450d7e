/**
 * Reading the regions of large faces at the picture's own resolution (octamark.inference.refiner and regions in Python).
 * One small network reads all regions; its readings are combined with the first landmarks by their expected errors.
 */
import { apply, applyToSpread, fitSimilarity, ramp } from "./geometry.js";
import { cutCrops } from "./picture.js";
import { Landmarks, blend } from "./rotation.js";
import { calibratedSpread, within } from "./calibration.js";
import { WeightsError } from "./errors.js";

const CROP_RATIO = [1, 1.25]; // width of a face's crop over that of the network's input: refined from, fully from
const MAX_SPREAD_RATIO = [1.1, 1.2]; // of refined over first spread: refined landmarks count less from, not at all from
const OUTLINE_CROP_RATIO = [1.5, 2]; // the same as the first pair for the regions of the outline
const CONFIDENCE_SHARE = 0.05; // of the inter-ocular distance
const FACE_UNITS = 224; // side of a face's crop in the unit of a regional calibration

/** The regions of a layout, in the order of its table. */
export function regionTable(layout) {
  const names = Object.keys(layout.regions);
  if (!names.length) throw new WeightsError(`layout ${layout.name} has no regions`);
  const twin = (name) => {
    const left = `left_${name.replace(/^right_/, "")}`;
    if (!name.startsWith("right_") || !layout.regions[left]) return null;
    const partners = new Set(layout.regions[left].map((index) => layout.mirror[index]));
    const points = new Set(layout.regions[name]);
    return partners.size === points.size && [...partners].every((index) => points.has(index)) ? left : null;
  };
  const ranges = {};
  let channels = 0;
  for (const name of names) {
    if (twin(name) === null) {
      ranges[name] = channels;
      channels += layout.regions[name].length;
    }
  }
  const kinds = Object.keys(ranges);
  const outline = new Set(layout.outline);
  const regions = names.map((name) => {
    const left = twin(name);
    const landmarks = left ? layout.regions[left].map((index) => layout.mirror[index]) : layout.regions[name];
    const places = landmarks.map((index) => layout.diagram[index]);
    const extent = (axis) => Math.max(...places.map((p) => p[axis])) - Math.min(...places.map((p) => p[axis]));
    return {
      name,
      landmarks,
      channel: ranges[left ?? name],
      kind: kinds.indexOf(left ?? name),
      mirrored: left !== null,
      outline: landmarks.every((index) => outline.has(index)),
      size: Math.max(extent(0), extent(1)),
    };
  });
  return { regions, channels, diagram: layout.diagram };
}

/** The crop of each region: an upright square, centred on its landmarks, sized by their extent and spread. */
export function placeRegions({ points, spread }, table, rule) {
  const fitted = fitSimilarity(table.diagram, points);
  const scale = Math.sqrt(fitted[0] ** 2 + fitted[3] ** 2 + 1e-12);
  const [cos, sin] = [fitted[0] / scale, fitted[3] / scale];
  return table.regions.map((region) => {
    const upright = region.landmarks.map((index) => {
      const [x, y] = points[index];
      return [cos * x + sin * y, cos * y - sin * x];
    });
    const range = (axis) => {
      const values = upright.map((point) => point[axis]);
      return [Math.min(...values), Math.max(...values)];
    };
    const [[left, right], [top, bottom]] = [range(0), range(1)];
    const extent = Math.max(right - left, bottom - top, rule.least * region.size * scale);
    const meanSpread =
      region.landmarks.reduce((sum, index) => sum + (spread[index][0] + spread[index][1]) / 2, 0) / region.landmarks.length;
    const step = (rule.margin * extent + Math.min(rule.spread * meanSpread, extent)) / rule.size;
    const sign = region.mirrored ? -1 : 1;
    const [a, b, d, e] = [sign * cos * step, -sin * step, sign * sin * step, cos * step];
    const [u, v] = [(left + right) / 2, (top + bottom) / 2];
    const middle = rule.size / 2 - 0.5;
    return [a, b, cos * u - sin * v - (a + b) * middle, d, e, sin * u + cos * v - (d + e) * middle];
  });
}

/**
 * The landmarks of a face, refined where `mode` asks for it: "auto" refines faces that are larger than the network's
 * input, unless the regional network expects larger errors. At both limits old and refined landmarks are blended.
 */
export async function refineFace(crop, landmarks, size, mode, refiner) {
  const { ratio } = crop;
  if (mode === "never" || (mode === "auto" && ratio < CROP_RATIO[0])) return landmarks;
  const refined = await refineFully(crop, landmarks, size, refiner);
  let share = 1;
  if (mode === "auto") {
    share = ramp(ratio, ...CROP_RATIO);
    share *= 1 - ramp(meanSpread(refined) / meanSpread(landmarks), ...MAX_SPREAD_RATIO);
  }
  return blend(landmarks, refined, share);
}

/** Whether all of these crops are refined fully enough for the regional network's calibration to hold. */
export function usesRegionalCalibration(crops, mode) {
  return mode === "always" || crops.every((crop) => crop.ratio >= CROP_RATIO[0]);
}

function meanSpread({ spread }) {
  return spread.reduce((sum, [x, y]) => sum + (x + y) / 2, 0) / spread.length;
}

async function refineFully(crop, landmarks, size, { card, layout, table, run }) {
  const outlineShare = ramp(crop.ratio, ...OUTLINE_CROP_RATIO);
  const transforms = placeRegions(landmarks, table, card.rule);
  const chosen = table.regions
    .map((region, index) => ({ region, transform: transforms[index], share: region.outline ? outlineShare : 1 }))
    .filter(({ share }) => share > 0);
  const pixels = new Uint8Array(chosen.length * card.rule.size ** 2 * 3);
  cutCrops(crop.picture, chosen.map(({ transform }) => transform), card.rule.size, pixels);
  const outputs = await run(pixels, chosen.length, ["readings", "spread"]);
  const pair = (values, index) => [values[2 * index], values[2 * index + 1]];
  const readings = chosen.flatMap(({ region, transform, share }, place) =>
    region.landmarks.map((landmark, order) => {
      const channel = place * table.channels + region.channel + order;
      return {
        landmark,
        share,
        bias: card.bias[region.kind],
        point: apply(transform, pair(outputs.readings, channel)),
        spread: applyToSpread(transform, pair(outputs.spread, channel)),
      };
    }),
  );
  const { points, spread: raw } = fuse(landmarks, readings, card.sharpness);
  const unit = (crop.ratio * size) / FACE_UNITS;
  const inUnits = raw.map(([x, y]) => [x / unit, y / unit]);
  const spread = calibratedSpread(card.calibration, inUnits).map(([x, y]) => [x * unit, y * unit]);
  const radius = CONFIDENCE_SHARE * layout.referenceDistance(points);
  const confidence = spread.map((value) => Math.fround(within(card.calibration, value, radius)));
  return new Landmarks(points, spread, confidence, landmarks.heatmaps, landmarks.visible);
}

/**
 * Global points and regional readings, weighted by (e^bias / spread^2) ^ sharpness, and the root of the weighted mean of
 * their variances. Readings of points that may be hidden count less: a region shows nothing of these.
 */
export function fuse({ points, spread, visible }, readings, sharpness) {
  const total = spread.map(() => [1, 1]);
  const sums = points.map(([x, y]) => [x, y]);
  const variances = spread.map(([x, y]) => [x * x, y * y]);
  for (const { landmark, share, bias, point, spread: own } of readings) {
    for (const axis of [0, 1]) {
      const global = -2 * sharpness * Math.log(spread[landmark][axis]);
      const weight = share * (visible?.[landmark] ?? 1) * Math.exp(sharpness * (bias - 2 * Math.log(own[axis])) - global);
      total[landmark][axis] += weight;
      sums[landmark][axis] += weight * point[axis];
      variances[landmark][axis] += weight * own[axis] ** 2;
    }
  }
  return {
    points: sums.map(([x, y], index) => [x / total[index][0], y / total[index][1]]),
    spread: variances.map(([x, y], index) => [Math.sqrt(x / total[index][0]), Math.sqrt(y / total[index][1])]),
  };
}

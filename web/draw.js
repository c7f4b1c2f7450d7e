/** Drawing faces on a canvas: points, error ellipses and heatmaps, in screen pixels over a picture that may be zoomed. */
import { VISIBLE } from "./lib/faces.js";
import { apply, landmarkBox } from "./lib/geometry.js";

const OUTLINE_COLOUR = "#ffb000";
const INNER_COLOUR = "#00dcff";
const RIM = "rgb(20 20 20 / 80%)";
const LOW_CONFIDENCE = 0.5; // points below are hollow
const COVERAGE = 0.9; // of the error ellipses
const HEATMAP_TO_INPUT = [4, 0, 1.5, 0, 4, 1.5]; // a stride of 4, pixel centres at integers

/** Matplotlib's inferno at eleven places, a colour map by N. Smith and S. van der Walt under CC0. */
const INFERNO = [
  [0, 0, 4], [22, 11, 57], [66, 10, 104], [106, 23, 110], [147, 38, 103], [188, 55, 84], [221, 81, 58], [243, 120, 25],
  [252, 165, 10], [246, 215, 70], [252, 255, 164],
];

/**
 * @param context 2D context whose pixels are those of the screen
 * @param picture what drawImage takes, or null
 * @param faces Faces
 * @param view { scale, x, y }: picture pixel (0, 0) has its corner at (x, y)
 * @param mode "points", "errors" or "heatmap"
 */
export function drawScene(context, picture, faces, { scale, x, y }, mode) {
  const [width, height] = [picture.width * scale, picture.height * scale];
  context.imageSmoothingEnabled = scale < 4;
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, x, y, width, height);
  const toScreen = ([u, v]) => [(u + 0.5) * scale + x, (v + 0.5) * scale + y];
  if (mode === "heatmap") {
    context.save();
    context.beginPath();
    context.rect(x, y, width, height);
    context.clip();
    context.globalCompositeOperation = "saturation";
    context.fillStyle = "#000";
    context.fillRect(x, y, width, height);
    context.globalCompositeOperation = "source-over";
    context.fillStyle = "rgb(0 0 0 / 40%)";
    context.fillRect(x, y, width, height);
    for (const face of faces) drawHeat(context, face, scale, x, y);
    context.restore();
    return;
  }
  faces.forEach((face, index) => {
    const points = face.landmarks.map(toScreen);
    const box = landmarkBox(points);
    const extent = Math.max(box[2] - box[0], box[3] - box[1]);
    const radius = Math.min(Math.max(1.3, extent * 0.0085), 7);
    const outline = new Set(face.layout.outline);
    const colour = (point) => (outline.has(point) ? OUTLINE_COLOUR : INNER_COLOUR);
    if (mode === "errors") drawErrors(context, face, points, scale, colour);
    else if (extent > 60) drawEdges(context, face, points, radius, outline);
    drawPoints(context, face, points, mode === "errors" ? Math.min(radius, 1.6) : radius, colour);
    if (face.id !== undefined || faces.length > 1) drawNumber(context, face.id ?? index + 1, box, extent);
  });
}

/** Whether a point can hardly be seen; false where the model does not tell it. */
function isHidden({ visible }, index) {
  return visible?.[index] < VISIBLE;
}

function drawEdges(context, face, points, radius, outline) {
  for (const hidden of [true, false]) {
    context.globalAlpha = hidden ? 0.25 : 0.45;
    context.lineWidth = Math.max(1, radius * (hidden ? 0.2 : 0.5));
    for (const colour of [OUTLINE_COLOUR, INNER_COLOUR]) {
      context.strokeStyle = colour;
      context.beginPath();
      for (const [first, second] of face.layout.edges) {
        const isOutline = outline.has(first) && outline.has(second);
        if (isOutline !== (colour === OUTLINE_COLOUR)) continue;
        if ((isHidden(face, first) || isHidden(face, second)) !== hidden) continue;
        context.moveTo(...points[first]);
        context.lineTo(...points[second]);
      }
      context.stroke();
    }
  }
  context.globalAlpha = 1;
}

function drawPoints(context, face, points, radius, colour) {
  points.forEach(([x, y], index) => {
    const hidden = isHidden(face, index);
    const hollow = hidden || face.confidence[index] < LOW_CONFIDENCE;
    const line = Math.max(1, radius * (hidden ? 0.25 : 0.4));
    context.beginPath();
    context.arc(x, y, hollow ? radius - line / 2 : radius, 0, 2 * Math.PI);
    if (hidden) {
      context.lineWidth = line;
      context.strokeStyle = colour(index);
      context.stroke();
    } else if (hollow) {
      context.lineWidth = line + 1.2;
      context.strokeStyle = RIM;
      context.stroke();
      context.lineWidth = line;
      context.strokeStyle = colour(index);
      context.stroke();
    } else {
      context.lineWidth = 1;
      context.strokeStyle = RIM;
      context.stroke();
      context.fillStyle = colour(index);
      context.fill();
    }
  });
}

function drawErrors(context, face, points, scale, colour) {
  face.ellipses(COVERAGE).forEach(([rx, ry], index) => {
    context.beginPath();
    context.ellipse(...points[index], rx * scale, ry * scale, 0, 0, 2 * Math.PI);
    context.fillStyle = colour(index);
    context.globalAlpha = 0.2;
    context.fill();
    context.globalAlpha = 0.9;
    context.lineWidth = 1.2;
    context.strokeStyle = colour(index);
    context.stroke();
    context.globalAlpha = 1;
  });
}

function drawNumber(context, number, [x1, y1], extent) {
  const size = Math.min(Math.max(extent * 0.1, 13), 28);
  context.font = `600 ${size}px ui-sans-serif, system-ui, sans-serif`;
  context.lineJoin = "round";
  context.lineWidth = size / 5;
  context.strokeStyle = RIM;
  context.fillStyle = "#fff";
  const [x, y] = [Math.max(x1, 4), Math.max(y1 - size * 0.4, size)];
  context.strokeText(String(number), x, y);
  context.fillText(String(number), x, y);
}

/** The strongest heatmap at each place of a face's crop, in colour over the picture. */
function drawHeat(context, { heat, crop }, scale, x, y) {
  if (!heat) return;
  const side = Math.round(Math.sqrt(heat.length));
  const tile = document.createElement("canvas");
  tile.width = tile.height = side;
  const image = new ImageData(side, side);
  heat.forEach((value, index) => image.data.set([...inferno(value), 255 * Math.sqrt(Math.min(value, 1))], 4 * index));
  tile.getContext("2d").putImageData(image, 0, 0);
  const [u, v] = apply(crop, apply(HEATMAP_TO_INPUT, [-0.5, -0.5])); // the corner of the first pixel
  const step = 4 * scale;
  context.save();
  context.setTransform(
    new DOMMatrix([crop[0] * step, crop[3] * step, crop[1] * step, crop[4] * step, (u + 0.5) * scale + x, (v + 0.5) * scale + y])
      .preMultiplySelf(context.getTransform()),
  );
  context.imageSmoothingEnabled = true;
  context.drawImage(tile, 0, 0);
  context.restore();
}

function inferno(value) {
  const place = Math.min(Math.max(value, 0), 1) * (INFERNO.length - 1);
  const index = Math.min(Math.floor(place), INFERNO.length - 2);
  return INFERNO[index].map((low, channel) => low + (place - index) * (INFERNO[index + 1][channel] - low));
}

/** The number of the face and of its point nearest to a place on the screen, at most `reach` away; null without one. */
export function nearestPoint(faces, { scale, x, y }, [px, py], reach) {
  let best = null;
  faces.forEach((face, number) =>
    face.landmarks.forEach(([u, v], point) => {
      const apart = Math.hypot((u + 0.5) * scale + x - px, (v + 0.5) * scale + y - py);
      if (apart < (best?.apart ?? reach)) best = { number, point, apart };
    }),
  );
  return best;
}

/**
 * Files of landmarks, in the formats that octamark writes and reads in Python (octamark.io). A record is
 * { file, model, faces } with `faces` of one picture, and in a video `frame` and `time` in seconds.
 */
import { VISIBLE, rounded } from "./faces.js";

/** One list of objects, one per picture. */
export function toJson(records) {
  return `${JSON.stringify(records.map(entry))}\n`;
}

function entry({ file, model, faces, frame, time }) {
  const { width, height, layout, faces: list } = faces.toJSON();
  const video = frame === undefined ? {} : { frame, time: rounded(time, 5) };
  return { file, ...video, width, height, layout, model, faces: list };
}

const COLUMNS = [
  "file", "width", "height", "layout", "model", "face", "id", "score", "mean_confidence",
  "box_x1", "box_y1", "box_x2", "box_y2", "point", "name", "x", "y", "spread_x", "spread_y", "confidence", "visible",
];

/** One row per point; a picture without faces has one row with empty cells. */
export function toCsv(records) {
  const video = records.some(({ frame }) => frame !== undefined);
  const rows = [[...COLUMNS, ...(video ? ["frame", "time"] : [])]];
  for (const record of records) {
    const { file, width, height, layout, model, faces } = entry(record);
    const picture = [file, width, height, layout, model];
    const place = video ? [record.frame, rounded(record.time, 5)] : [];
    if (!faces.length) rows.push([...picture, ...new Array(COLUMNS.length - picture.length).fill(""), ...place]);
    faces.forEach((face, number) => {
      const cells = [...picture, number, face.id ?? "", face.score, face.mean_confidence, ...face.box];
      face.landmarks.forEach((point, index) => {
        const name = record.faces.layout.pointNames[index];
        const shares = [face.confidence[index], face.visible?.[index] ?? ""];
        rows.push([...cells, index, name, ...point, ...face.spread[index], ...shares, ...place]);
      });
    });
  }
  return rows.map((row) => `${row.map(cell).join(",")}\n`).join("");
}

function cell(value) {
  const text = value === null || value === undefined ? "" : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The text of a .pts file, which holds one face: 1-based points between braces. */
export function toPts(face) {
  const points = face.landmarks.map(([x, y]) => `${(x + 1).toFixed(3)} ${(y + 1).toFixed(3)}\n`).join("");
  return `version: 1\nn_points: ${face.landmarks.length}\n{\n${points}}\n`;
}

/** COCO keypoints, 0-based; the skeleton is 1-based. v is 1 for points that are hidden, otherwise 2. */
export function toCoco(records) {
  const [images, annotations] = [[], []];
  const layouts = new Map();
  records.forEach(({ file, model, faces }, index) => {
    const { width, height, layout } = faces;
    if (!layouts.has(layout.name)) layouts.set(layout.name, layout);
    images.push({ id: index + 1, file_name: file, width, height, model });
    for (const face of faces) {
      const { id, box, landmarks, ...rest } = face.toJSON();
      const [w, h] = [rounded(box[2] - box[0], 2), rounded(box[3] - box[1], 2)];
      annotations.push({
        id: annotations.length + 1,
        image_id: index + 1,
        category_id: [...layouts.keys()].indexOf(layout.name) + 1,
        iscrowd: 0,
        keypoints: landmarks.flatMap((point, at) => [...point, face.visible?.[at] < VISIBLE ? 1 : 2]),
        num_keypoints: landmarks.length,
        bbox: [box[0], box[1], w, h],
        area: rounded(w * h, 2),
        ...(id === undefined ? {} : { track_id: id }),
        ...rest,
      });
    }
  });
  const categories = [...layouts.values()].map((layout, index) => ({
    id: index + 1,
    name: `face_${layout.name}`,
    supercategory: "face",
    keypoints: layout.pointNames,
    skeleton: layout.edges.map((edge) => edge.map((point) => point + 1)),
  }));
  const info = { description: "octamark predictions", models: [...new Set(records.map(({ model }) => model))].sort() };
  return `${JSON.stringify({ info, images, annotations, categories })}\n`;
}

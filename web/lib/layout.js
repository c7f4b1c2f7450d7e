/** Layouts: the landmarks of a convention, their names, parts and pairs. Sides are the person's own. */
import { distance, landmarkBox, mean } from "./geometry.js";
import { LayoutError } from "./errors.js";

/** One convention of facial landmarks, made of a table that octamark.layouts.dumps wrote in Python. */
export class Layout {
  constructor(table) {
    this.table = table;
    this.name = table.name;
    this.title = table.title;
    this.count = table.points.length;
    this.pointNames = table.points;
    this.parts = table.parts;
    this.outline = table.global ?? [];
    this.edges = table.edges ?? [];
    this.mirror = Array.from({ length: this.count }, (_, index) => index);
    for (const [first, second] of table.mirror ?? []) {
      this.mirror[first] = second;
      this.mirror[second] = first;
    }
    this.normalisers = table.normalisers ?? {};
    this.regions = table.regions ?? {};
    this.diagram = table.diagram?.map((point) => point.map(Math.fround)) ?? null; // as Python holds it
    const eyes = Object.entries(table.eyes ?? {}).map(([side, { corners, lids }]) => [side, { corners, pairs: lids }]);
    this.eyes = Object.fromEntries(eyes);
    this.mouth = table.mouth ? { corners: table.mouth.corners, pairs: table.mouth.lips } : null;
  }

  /** Parts of both sides and positions together: `eyes` is right_eye and left_eye, `mouth` outer and inner. */
  get groups() {
    const groups = {};
    for (const [part, indices] of Object.entries(this.parts)) {
      const group = partKind(part) + (/(^|_)(right|left)_/.test(part) ? "s" : "");
      groups[group] = [...(groups[group] ?? []), ...indices];
    }
    return groups;
  }

  /** Indices of one part, or of a group of parts such as "eyes" or "mouth". */
  part(name) {
    const indices = this.parts[name] ?? this.groups[name];
    if (!indices) {
      const names = [...new Set([...Object.keys(this.parts), ...Object.keys(this.groups)])];
      throw new LayoutError(`layout ${this.name} has no part ${JSON.stringify(name)}; parts: ${names.join(", ")}`);
    }
    return indices;
  }

  /** The distance that confidence refers to: inter-ocular, or half the root of the landmark box's area. */
  referenceDistance(points) {
    const groups = this.normalisers["inter-ocular"];
    if (groups) return distance(...groups.map((group) => mean(group.map((index) => points[index]))));
    const [x1, y1, x2, y2] = landmarkBox(points);
    return 0.5 * Math.sqrt((x2 - x1) * (y2 - y1));
  }
}

/** The name of a part without its side and position: left_eye -> eye, outer_mouth -> mouth. */
export function partKind(part) {
  return part.replace(/^((right|left|outer|inner|upper|lower)_)+/, "");
}

/** How far an eye or a mouth is open: mean distance of the facing points over the distance of the corners. */
export function openingRatio({ corners, pairs }, points) {
  const length = ([first, second]) => distance(points[first], points[second]);
  const width = length(corners);
  return width > 0 ? pairs.reduce((sum, pair) => sum + length(pair), 0) / pairs.length / width : NaN;
}

/** octamark in the browser: facial landmarks with an expected error for every point. */

/** [x, y] in pixels of the picture; pixel centres are at integer coordinates. */
export type Point = [x: number, y: number];
/** [x1, y1, x2, y2] in pixels of the picture. */
export type Box = [x1: number, y1: number, x2: number, y2: number];
/** [a, b, c, d, e, f]: x' = a x + b y + c and y' = d x + e y + f. */
export type Transform = [a: number, b: number, c: number, d: number, e: number, f: number];

/** Bytes of a picture row by row, 3 (RGB) or 4 (RGBA) for each pixel. */
export interface PixelBytes {
  data: Uint8Array | Uint8ClampedArray;
  width: number;
  height: number;
}

/** A decoded picture, RGB first; a fourth channel is not read. */
export interface Picture extends PixelBytes {
  channels: 3 | 4;
}

export type PictureSource =
  | ImageData
  | ImageBitmap
  | HTMLImageElement
  | HTMLCanvasElement
  | OffscreenCanvas
  | HTMLVideoElement
  | VideoFrame
  | Blob
  | PixelBytes;

export type Mode = "auto" | "always" | "never";
export type ModelName =
  | "pico"
  | "nano"
  | "tiny-128"
  | "tiny"
  | "small"
  | "small-art"
  | "pico-open"
  | "tiny-open"
  | "small-open";

export interface Options {
  /** Which faces are read again in a crop that is turned upright; "auto": those that lean or of which the network is unsure. */
  rotation?: Mode;
  /** Which faces are read again region by region; "auto": large ones, with the model "small" or regions of your own. */
  refine?: Mode;
  /** Name of the regional network, or the URL or bytes of one. */
  regions?: string | URL | ArrayBuffer | Uint8Array;
  /** Faces whose mean confidence is lower are left out, 0 to 1; points count by `visible` where the model tells it. */
  minConfidence?: number;
  /** Least score of the face detector, 0.01 to 0.99. */
  threshold?: number;
  /** What the landmark networks run on. "webgpu" needs a browser that has it, and a larger runtime (7 MB compressed). */
  device?: "wasm" | "webgpu";
  /** A face detector of your own. */
  detector?: ((picture: Picture) => Promise<Detections> | Detections) | null;
  /** The folder with octamark.json, models/ and ort/; by default the folder of octamark.js. */
  base?: string | URL;
  /** A module of onnxruntime-web that was imported already; by default ort/ort.wasm.bundle.min.mjs in `base`. */
  ort?: unknown;
}

export interface Detections {
  boxes: Box[];
  scores: number[];
}

export interface How {
  /** Boxes of the faces; without them the detector looks for faces. */
  boxes?: Box[] | null;
  /** What the boxes are: those of a face detector, or tight around the landmarks. */
  boxKind?: "detector" | "landmarks";
  /** One face fills the picture: several guesses are read, and the surest one counts. */
  fullFrame?: boolean;
  /** Also return the networks' probability maps. */
  heatmaps?: boolean;
}

export interface Card {
  name: string;
  layout: string;
  parameters: number;
  terms: string;
  training_data: string;
  version: string;
  [key: string]: unknown;
}

export interface Located {
  picture: Picture;
  faces: object[];
}

/** Reads pictures. Calls may overlap; the networks run one after the other. */
export interface Landmarker {
  (source: PictureSource, how?: How): Promise<Faces>;
  readonly card: Card;
  readonly layout: Layout;
  readonly options: Readonly<Required<Options>>;
  /** The first half of a call: where the faces are. */
  locate(picture: Picture, how?: How): Promise<Located>;
  /** The second half of a call. */
  readLocated(located: Located, how?: { heatmaps?: boolean; rotation?: Mode; keepUnsure?: boolean }): Promise<Faces>;
  /** Gives the memory of the networks back. */
  dispose(): Promise<void>;
}

/**
 * A landmarker.
 * @param model name of a model in the folder of the module, URL of an .onnx file that octamark wrote, or its bytes
 * @throws WeightsError, ConfigError
 */
export function load(model?: ModelName | string | URL | ArrayBuffer | Uint8Array, options?: Options): Promise<Landmarker>;

export interface ModelEntry {
  file: string;
  bytes: number;
  sha256: string;
  /** Whether it is the network that reads regions, which is used beside a model. */
  regional?: true;
  parameters?: number;
  /** Side of the network's input, pixels. */
  input?: number;
  /** null where nobody stated the terms of a source. */
  commercialUse?: boolean | null;
  /** Measured time of a face in Chromium on one thread. */
  milliseconds?: number;
}

/** The models in the folder of the module, by name. */
export function models(base?: string): Promise<Record<string, ModelEntry>>;

/** A picture from whatever holds one; transparent parts become white. Throws PictureError. */
export function toPicture(source: PictureSource): Promise<Picture>;

export interface Part {
  landmarks: Point[];
  spread: Point[];
  confidence: number[];
  visible?: number[];
}

/** One face. Sides are the person's own. */
export class Face {
  constructor(layout: Layout, values: object);
  readonly layout: Layout;
  readonly landmarks: Point[];
  /** Expected absolute error along x and y of each point, pixels. */
  readonly spread: Point[];
  /** Probability that a point is less than 5 % of the inter-ocular distance off. */
  readonly confidence: number[];
  /** Probability that a point can be seen, 0 to 1; only of models that tell it. */
  readonly visible?: number[];
  readonly box: Box;
  readonly score: number;
  /** From pixels of the network's input to pixels of the picture. */
  readonly crop: Transform;
  /** One map after the other, a quarter of the network's input wide; only if they were asked for. */
  readonly heatmaps?: Float32Array;
  /** Number of the track in a video. */
  readonly id?: number;
  get meanConfidence(): number;
  /** One part of the layout, such as "left_eye", or a group of parts, such as "eyes" or "mouth". Throws LayoutError. */
  part(name: string): Part;
  /** The landmarks of each part, by name. */
  get parts(): Record<string, Point[]>;
  /** Radii in pixels that hold the true points with probability `coverage`. */
  radius(coverage: number): number[];
  /** The same as semi-axes of ellipses, wider along the axis that is less sure. */
  ellipses(coverage: number): Point[];
  /** How far the right and the left eye are open: distance of the lids over the eye's width. */
  get eyeOpening(): number[];
  /** The same of the mouth; NaN for a layout without inner lips. */
  get mouthOpening(): number;
  /** Yaw, pitch and roll in degrees; null for another layout than ibug68. */
  get pose(): [yaw: number, pitch: number, roll: number] | null;
  toJSON(): object;
}

/** The faces of one picture. */
export class Faces extends Array<Face> {
  readonly layout: Layout;
  readonly width: number;
  readonly height: number;
  static create(layout: Layout, width: number, height: number, faces: Face[]): Faces;
  toJSON(): object;
}

/** The landmarks of a convention. */
export class Layout {
  constructor(table: object);
  readonly name: string;
  readonly title: string;
  readonly count: number;
  readonly pointNames: string[];
  readonly parts: Record<string, number[]>;
  get groups(): Record<string, number[]>;
  readonly outline: number[];
  readonly edges: [number, number][];
  readonly mirror: number[];
  part(name: string): number[];
}

export interface TrackerOptions {
  /** How steady the points are held. */
  smoothing?: "none" | "low" | "high";
  /** Seconds between two searches with the face detector while one face is tracked. */
  detectEvery?: number;
  /** Seconds for which a face that cannot be seen keeps its id. */
  maxGap?: number;
  /** Mean confidence below which a face is unsure. */
  minConfidence?: number;
}

/** Follows the faces of one video. */
export class Tracker {
  constructor(landmarker: Landmarker, options?: TrackerOptions);
  /** The faces of the next frame, each with its `id`; `time` in seconds rises from frame to frame. */
  track(source: PictureSource, time: number): Promise<Faces>;
  /** Forgets all faces and the time. */
  reset(): void;
}

export interface FileRecord {
  /** Name of the picture. */
  file: string;
  /** Name of the model. */
  model: string;
  faces: Faces;
  /** In a video: number of the frame, and its time in seconds. */
  frame?: number;
  time?: number;
}

export function toJson(records: FileRecord[]): string;
export function toCsv(records: FileRecord[]): string;
export function toCoco(records: FileRecord[]): string;
/** A .pts file holds one face, 1-based. */
export function toPts(face: Face): string;

/** What octamark throws; every message names the input, what was given and what is allowed. */
export class OctamarkError extends Error {}
export class ConfigError extends OctamarkError {}
export class PictureError extends OctamarkError {}
export class BoxError extends OctamarkError {}
export class WeightsError extends OctamarkError {}
export class PredictionError extends OctamarkError {}
export class LayoutError extends OctamarkError {}

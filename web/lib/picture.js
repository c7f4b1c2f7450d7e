/**
 * Pictures and their parts: reading what the browser has, and cutting crops as OpenCV does.
 *
 * A picture here is { data, width, height, channels }: bytes row by row, RGB first; a fourth channel is skipped.
 */
import { PictureError } from "./errors.js";
import { apply, roundHalfEven } from "./geometry.js";

const FRACTION = 10; // bits of a coordinate behind the point, as in OpenCV's warpAffine
const STEPS = 32; // places between two pixels at which it interpolates
const WEIGHT = 2048; // of OpenCV's resize: coefficients of 11 bits

/** The largest width or height, and the largest area, that browsers draw to a canvas. */
export const MAX_SIDE = 16384;
export const MAX_PIXELS = 100e6;

/**
 * A picture from whatever holds one. Transparent parts become white.
 * @param source ImageData, ImageBitmap, <img>, <canvas>, OffscreenCanvas, <video>, VideoFrame, Blob or File; or
 *   { data, width, height } with 3 or 4 bytes for each pixel.
 */
export async function toPicture(source) {
  if (source && source.data && Number.isInteger(source.width)) return fromBytes(source);
  if (typeof Blob !== "undefined" && source instanceof Blob) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(source, { imageOrientation: "from-image" });
    } catch (error) {
      const name = source.name ? `${source.name}: ` : "";
      throw new PictureError(`${name}not a picture that this browser reads (such as JPEG, PNG or WebP)`, { cause: error });
    }
    try {
      return drawn(bitmap, bitmap.width, bitmap.height);
    } finally {
      bitmap.close();
    }
  }
  const width = source?.videoWidth ?? source?.displayWidth ?? source?.naturalWidth ?? source?.width;
  const height = source?.videoHeight ?? source?.displayHeight ?? source?.naturalHeight ?? source?.height;
  if (!(width >= 0 && height >= 0)) {
    throw new PictureError(
      `a picture of type ${source?.constructor?.name ?? typeof source}; allowed: ImageData, ImageBitmap, <img>, ` +
        "<canvas>, OffscreenCanvas, <video>, VideoFrame, Blob, File",
    );
  }
  return drawn(source, width, height);
}

function fromBytes({ data, width, height }) {
  const channels = data.length / (width * height);
  checkSize(width, height);
  if (channels !== 3 && channels !== 4) {
    throw new PictureError(
      `${data.length} bytes for a picture of ${width}x${height} pixels; allowed: 3 or 4 bytes for each pixel`,
    );
  }
  if (channels === 4) {
    for (let at = 3; at < data.length; at += 4) {
      if (data[at] !== 255) return { data: onWhite(data), width, height, channels };
    }
  }
  return { data, width, height, channels };
}

function onWhite(data) {
  const opaque = new Uint8Array(data.length);
  for (let at = 0; at < data.length; at += 4) {
    const share = data[at + 3] / 255;
    for (let channel = 0; channel < 3; channel++) {
      opaque[at + channel] = Math.round(data[at + channel] * share + 255 * (1 - share));
    }
    opaque[at + 3] = 255;
  }
  return opaque;
}

function drawn(source, width, height) {
  checkSize(width, height);
  const context = canvas(width, height).getContext("2d", { willReadFrequently: true });
  if (!context) throw new PictureError(`a picture of ${width}x${height} pixels, which is too large for this browser`);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0, width, height);
  return { data: context.getImageData(0, 0, width, height).data, width, height, channels: 4 };
}

function canvas(width, height) {
  if (typeof OffscreenCanvas !== "undefined") return new OffscreenCanvas(width, height);
  const element = document.createElement("canvas");
  element.width = width;
  element.height = height;
  return element;
}

function checkSize(width, height) {
  const whole = Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0;
  if (!whole || Math.max(width, height) > MAX_SIDE || width * height > MAX_PIXELS) {
    throw new PictureError(
      `a picture of ${width}x${height} pixels; allowed: 1 to ${MAX_SIDE} each way, ${MAX_PIXELS / 1e6} megapixels`,
    );
  }
}

/**
 * Writes the crop whose pixels `transform` takes to the picture into `out`, as RGB; black outside the picture.
 *
 * Bilinear. Where the picture is reduced by 2 or more, the part that the crop shows is first reduced by area averages.
 */
export function cutCrop(picture, transform, size, out, start = 0) {
  const part = visiblePart(picture, [transform], size);
  if (part === null) out.fill(0, start, start + size * size * 3);
  else warp(part.picture, part.transforms[0], size, out, start);
}

/** Writes crops that lie near each other; their common part is reduced once. */
export function cutCrops(picture, transforms, size, out, start = 0) {
  const bytes = size * size * 3;
  const part = visiblePart(picture, transforms, size);
  if (part === null) {
    out.fill(0, start, start + transforms.length * bytes);
    return;
  }
  part.transforms.forEach((transform, index) => cutCrop(part.picture, transform, size, out, start + index * bytes));
}

/** The part of a picture that crops show, reduced by whole pixels, and the crops in it; null outside the picture. */
function visiblePart(picture, transforms, size) {
  const corners = transforms.flatMap((transform) =>
    [[-1, -1], [size, -1], [-1, size], [size, size]].map((corner) => apply(transform, corner)),
  );
  const limits = [picture.width, picture.height];
  const [first, last] = [[], []];
  for (const axis of [0, 1]) {
    const values = corners.map((corner) => corner[axis]);
    first.push(Math.min(Math.max(Math.floor(Math.min(...values)) - 1, 0), limits[axis]));
    last.push(Math.min(Math.max(Math.ceil(Math.max(...values)) + 2, 0), limits[axis]));
    if (!(last[axis] > first[axis])) return null;
  }
  const step = Math.min(...transforms.map((transform) => Math.hypot(transform[0], transform[3])));
  const factor = Math.min(Math.floor(step), Math.max(last[0] - first[0], last[1] - first[1]));
  if (factor < 2) return { picture, transforms };
  const reduced = areaReduced(picture, first[0], first[1], last[0], last[1], factor);
  const shift = (factor - 1) / 2;
  return {
    picture: reduced,
    transforms: transforms.map(([a, b, c, d, e, f]) =>
      [a, b, c - first[0] - shift, d, e, f - first[1] - shift].map((value) => value / factor),
    ),
  };
}

/** Means of squares of `factor` by `factor` pixels of a part; at its right and lower border the last pixel repeats. */
export function areaReduced(picture, left, top, right, bottom, factor) {
  const { data, width: stride, channels } = picture;
  const width = Math.ceil((right - left) / factor);
  const height = Math.ceil((bottom - top) / factor);
  const out = new Uint8Array(width * height * 3);
  const area = factor * factor;
  const sums = new Uint32Array(width * 3);
  for (let row = 0; row < height; row++) {
    sums.fill(0);
    for (let inner = 0; inner < factor; inner++) {
      const y = Math.min(top + row * factor + inner, bottom - 1);
      for (let column = 0, at = 0; column < width; column++, at += 3) {
        const x = left + column * factor;
        let from = (y * stride + x) * channels;
        const whole = x + factor <= right;
        for (let step = 0; step < factor; step++) {
          sums[at] += data[from];
          sums[at + 1] += data[from + 1];
          sums[at + 2] += data[from + 2];
          if (whole || x + step + 1 < right) from += channels;
        }
      }
    }
    const start = row * width * 3;
    for (let at = 0; at < sums.length; at++) out[start + at] = roundedHalf(sums[at], area);
  }
  return { data: out, width, height, channels: 3 };
}

/** sum / count, halves to the even number, as OpenCV rounds; halves up for four pixels. */
function roundedHalf(sum, count) {
  if (count === 4) return (sum + 2) >> 2;
  const whole = Math.floor(sum / count);
  const twice = 2 * (sum - whole * count);
  return whole + (twice > count || (twice === count && whole & 1) ? 1 : 0);
}

/** OpenCV's warpAffine: bilinear between 32 places along each axis, black outside. */
function warp(picture, [a, b, c, d, e, f], size, out, start) {
  const { data, width, height, channels } = picture;
  const scale = 1 << FRACTION;
  const half = scale / STEPS / 2;
  const shift = FRACTION - 5;
  const along = new Int32Array(size);
  const across = new Int32Array(size);
  for (let x = 0; x < size; x++) {
    along[x] = roundHalfEven(a * x * scale);
    across[x] = roundHalfEven(d * x * scale);
  }
  const stride = width * channels;
  let at = start;
  for (let y = 0; y < size; y++) {
    const x0 = roundHalfEven((b * y + c) * scale) + half;
    const y0 = roundHalfEven((e * y + f) * scale) + half;
    for (let x = 0; x < size; x++, at += 3) {
      const u = (x0 + along[x]) >> shift;
      const v = (y0 + across[x]) >> shift;
      const column = u >> 5;
      const row = v >> 5;
      const right = u & 31;
      const lower = v & 31;
      const left = STEPS - right;
      const upper = STEPS - lower;
      if (column >= 0 && row >= 0 && column + 1 < width && row + 1 < height) {
        const from = row * stride + column * channels;
        const w00 = upper * left;
        const w01 = upper * right;
        const w10 = lower * left;
        const w11 = lower * right;
        for (let channel = 0; channel < 3; channel++) {
          const p = from + channel;
          const q = p + stride;
          out[at + channel] =
            (data[p] * w00 + data[p + channels] * w01 + data[q] * w10 + data[q + channels] * w11 + 512) >> 10;
        }
      } else if (column < -1 || row < -1 || column >= width || row >= height) {
        out[at] = out[at + 1] = out[at + 2] = 0;
      } else {
        for (let channel = 0; channel < 3; channel++) {
          const value = (px, py) =>
            px >= 0 && py >= 0 && px < width && py < height ? data[py * stride + px * channels + channel] : 0;
          out[at + channel] =
            (value(column, row) * upper * left + value(column + 1, row) * upper * right +
              value(column, row + 1) * lower * left + value(column + 1, row + 1) * lower * right + 512) >> 10;
        }
      }
    }
  }
}

/**
 * The picture after it was halved as long as its longer side stays at least `side`, and by what it was divided. The last
 * row and column of an odd picture are left out.
 */
export function halved(picture, side) {
  let factor = 1;
  while (Math.max(picture.width, picture.height) >= 2 * side && Math.min(picture.width, picture.height) >= 2) {
    const [width, height] = [picture.width >> 1, picture.height >> 1];
    picture = areaReduced(picture, 0, 0, 2 * width, 2 * height, 2);
    factor *= 2;
  }
  return [picture, factor];
}

/** OpenCV's bilinear resize of a picture, as RGB. */
export function resized(picture, width, height) {
  const { data, width: oldWidth, height: oldHeight, channels } = picture;
  const columns = resizeTable(oldWidth, width, true);
  const rows = resizeTable(oldHeight, height, false);
  const out = new Uint8Array(width * height * 3);
  const lines = [new Int32Array(width * 3), new Int32Array(width * 3)];
  const held = [-1, -1];
  const line = (row) => {
    const slot = row & 1;
    if (held[slot] !== row) {
      held[slot] = row;
      const [values, start] = [lines[slot], row * oldWidth * channels];
      for (let x = 0, at = 0; x < width; x++) {
        const place = start + columns.place[x] * channels;
        const next = columns.next[x] * channels;
        const near = columns.near[x];
        const far = columns.far[x];
        for (let channel = 0; channel < 3; channel++, at++) {
          values[at] = data[place + channel] * near + data[place + next + channel] * far;
        }
      }
    }
    return lines[slot];
  };
  for (let y = 0, at = 0; y < height; y++) {
    const upper = line(rows.place[y]);
    const lower = rows.next[y] ? line(rows.place[y] + 1) : upper;
    const near = rows.near[y];
    const far = rows.far[y];
    for (let x = 0; x < upper.length; x++, at++) {
      out[at] = (((near * (upper[x] >> 4)) >> 16) + ((far * (lower[x] >> 4)) >> 16) + 2) >> 2;
    }
  }
  return { data: out, width, height, channels: 3 };
}

/**
 * For each new pixel: the old one before it, how far behind it the next one is (0 at the border), and the weights of both.
 * @param settled whether a pixel beyond the border counts alone; OpenCV does so along rows, and rounds accordingly
 */
function resizeTable(old, size, settled) {
  const table = { place: new Int32Array(size), next: new Uint8Array(size), near: [], far: [] };
  const scale = 1 / (size / old); // in this order, as OpenCV does
  for (let index = 0; index < size; index++) {
    const exact = Math.fround((index + 0.5) * scale - 0.5);
    const place = Math.floor(exact);
    let share = exact - place;
    if (settled && (place < 0 || place >= old - 1)) share = 0;
    table.place[index] = Math.min(Math.max(place, 0), old - 1);
    table.next[index] = place >= 0 && place < old - 1 ? 1 : 0;
    table.near[index] = roundHalfEven(Math.fround(1 - share) * WEIGHT);
    table.far[index] = roundHalfEven(share * WEIGHT);
  }
  return table;
}

/** The picture turned counter-clockwise by quarters of a circle. */
export function turned(picture, quarters) {
  if (quarters === 0) return picture;
  const { data, width, height, channels } = picture;
  const [columns, rows] = quarters % 2 ? [height, width] : [width, height];
  const out = new Uint8Array(columns * rows * 3);
  for (let y = 0, at = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++, at += 3) {
      const [u, v] =
        quarters === 1 ? [width - 1 - y, x] : quarters === 2 ? [width - 1 - x, height - 1 - y] : [y, height - 1 - x];
      const from = (v * width + u) * channels;
      out[at] = data[from];
      out[at + 1] = data[from + 1];
      out[at + 2] = data[from + 2];
    }
  }
  return { data: out, width: columns, height: rows, channels: 3 };
}

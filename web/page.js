/** The page: pictures and video in, faces drawn, files out. The networks run in a worker (worker.js). */
import { Face, Faces, Layout, models, toCoco, toCsv, toJson, toPts } from "./octamark.js";
import { drawScene, nearestPoint } from "./draw.js";
import { landmarkBox } from "./lib/geometry.js";

const DEFAULT_MODEL = "tiny-128";
const DRAWING_MODEL = "small-art";
const REFINED_MODEL = "small";
const MAX_ZOOM = 40;
const MAX_FRAMES = 3000; // of a video that are kept for saving
const REACH = 12; // pixels around a point in which it is named
const DESCRIPTIONS = {
  pico: "smallest and fastest",
  nano: "small file",
  "tiny-128": "quick, many faces",
  tiny: "balanced",
  small: "most accurate on photographs",
  "small-art": "drawings and paintings",
  "pico-open": "smallest and fastest",
  "tiny-open": "balanced",
  "small-open": "most accurate",
};

/** By whether the sources of the weights allow commercial use: groups of models, and a sentence; null: not stated. */
const TERMS = {
  true: ["For any use", "The weights of NAME may be used commercially."],
  false: ["For research", "The weights of NAME are for research only."],
  null: ["Terms not stated", "The terms of the weights of NAME are not stated."],
};

let known = {}; // the models of octamark.json

const element = (id) => document.getElementById(id);
const [stage, canvas, video] = [element("stage"), element("view"), element("video")];

const state = {
  items: [], // { name, file, faces, milliseconds, model, settings, error } of each picture; the shown one has a bitmap
  current: -1,
  view: { scale: 1, x: 0, y: 0 },
  fitted: true,
  layout: null,
  live: null, // while a video runs: { name, frames, bitmap, faces, rate, stopped }
};

// --- the worker ------------------------------------------------------------------------------------------------------

// A worker from a blob is under the page's own Content-Security-Policy; one from a file would have that of its response.
const source = new Blob([`import ${JSON.stringify(new URL("./worker.js", import.meta.url).href)};`], { type: "text/javascript" });
const worker = new Worker(URL.createObjectURL(source), { type: "module" });
const waiting = new Map();
let lastId = 0;

worker.onmessage = ({ data: { id, result, error } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error) reject(Object.assign(new Error(error.message), { name: error.name }));
  else resolve(result);
};
worker.onerror = (event) => {
  for (const { reject } of waiting.values()) reject(new Error(event.message || "the worker could not be started"));
  waiting.clear();
};

function ask(task, values, transfer = []) {
  return new Promise((resolve, reject) => {
    waiting.set(++lastId, { resolve, reject });
    worker.postMessage({ id: lastId, task, ...values }, transfer);
  });
}

// --- settings --------------------------------------------------------------------------------------------------------

function settings() {
  const drawing = element("drawing").checked;
  return {
    model: drawing ? DRAWING_MODEL : element("model").value || DEFAULT_MODEL,
    options: { refine: element("refine").checked && canRefine() ? "auto" : "never" },
    how: { fullFrame: element("full-frame").checked },
  };
}

/** The landmarker of the settings, loaded in the worker. The layout of its points is kept in `state`. */
async function prepared() {
  const chosen = settings();
  const { card, layout, head } = await ask("load", chosen);
  state.layout = Object.assign(new Layout(layout), { head });
  const about = DESCRIPTIONS[card.name];
  const sentences = [about && `${about[0].toUpperCase()}${about.slice(1)}.`, TERMS[known[card.name]?.commercialUse]?.[1]];
  element("terms").textContent = sentences.filter(Boolean).join(" ").replace("NAME", card.name);
  return chosen;
}

/** Whether the regional network was trained with the chosen model. */
function canRefine() {
  return !element("drawing").checked && element("model").value === REFINED_MODEL;
}

async function listModels() {
  known = await models();
  const groups = {};
  for (const [name, { regional, bytes, milliseconds, commercialUse }] of Object.entries(known)) {
    if (regional) continue;
    const size = `${(bytes / 1e6).toFixed(1)} MB`;
    const time = milliseconds ? `, ${milliseconds} ms a face` : "";
    groups[commercialUse] ??= Object.assign(document.createElement("optgroup"), { label: TERMS[commercialUse][0] });
    groups[commercialUse].append(new Option(`${name}: ${size}${time}`, name));
  }
  element("model").append(...Object.values(groups));
  element("model").value = DEFAULT_MODEL;
}

// --- reading ---------------------------------------------------------------------------------------------------------

async function addFiles(files) {
  stopVideo();
  const list = [...files];
  if (!list.length) return undefined;
  if (list.length === 1 && isVideo(list[0])) return playFile(list[0]);
  const first = state.items.length;
  state.items.push(...list.map((file) => ({ name: file.name || "pasted picture", file, faces: null })));
  await show(first);
  return readAll();
}

function isVideo(file) {
  return file.type.startsWith("video/");
}

/** The picture in a file, turned as its EXIF data say. */
async function decode({ name, file }) {
  if (isVideo(file)) throw new Error(`${name}: a video; choose it alone, and it is played`);
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    throw new Error(`${name}: not a picture that this browser reads (such as JPEG, PNG or WebP)`);
  }
}

let round = 0; // changes with each call: a later one takes over what an earlier one has left

/** Reads all pictures that were not read with the present settings, the shown one first. */
async function readAll() {
  const mine = ++round;
  busy(true);
  try {
    const chosen = await prepared();
    const key = JSON.stringify(chosen);
    const isOld = (item) => item.file && item.settings !== key;
    const next = () => [state.items[state.current], ...state.items].find((item) => item && isOld(item));
    for (let item = next(); item && mine === round; item = next()) await readOne(item, chosen, key);
  } catch (error) {
    if (mine === round) report(error.message, true);
  } finally {
    if (mine === round) busy(false);
  }
}

async function readOne(item, chosen, key) {
  const values = { settings: key, error: null, faces: null, model: chosen.model };
  try {
    const picture = await decode(item);
    item.thumbnail ??= thumbnail(picture);
    const read = await ask("read", { ...chosen, picture }, [picture]);
    Object.assign(values, { faces: facesOf(read), milliseconds: read.milliseconds });
  } catch (error) {
    values.error = error.message.startsWith(`${item.name}: `) ? error.message : `${item.name}: ${error.message}`;
  }
  Object.assign(item, values);
  if (item === state.items[state.current]) refresh();
  else drawStrip();
}

function facesOf({ width, height, faces }) {
  return Faces.create(state.layout, width, height, faces.map((values) => new Face(state.layout, values)));
}

async function settingsChanged() {
  element("model").disabled = element("drawing").checked;
  element("refine").disabled = !canRefine();
  if (state.live) {
    try {
      await startTracking();
    } catch (error) {
      report(error.message, true);
    }
  } else if (state.items.length) await readAll();
}

// --- video -----------------------------------------------------------------------------------------------------------

async function startCamera() {
  stopVideo();
  if (!navigator.mediaDevices) {
    report("The camera cannot be used: browsers allow it on https and localhost only", true);
    return;
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 }, facingMode: "user" } });
  } catch (error) {
    report(`The camera cannot be used: ${error.message || error.name}`, true);
    return;
  }
  video.srcObject = stream;
  await runVideo("camera");
}

async function playFile(file) {
  video.src = URL.createObjectURL(file);
  await runVideo(file.name);
}

function startTracking() {
  return prepared().then((chosen) => {
    state.live.model = chosen.model;
    return ask("startVideo", { ...chosen, tracking: { smoothing: "low" } });
  });
}

async function runVideo(name) {
  const live = { name, frames: [], bitmap: null, faces: null, rate: 0, stopped: false };
  state.live = live;
  busy(true);
  element("stop").hidden = false;
  try {
    await startTracking();
    await video.play();
    setState("picture");
    busy(false);
    const begin = performance.now();
    let [number, last, started] = [0, -1, begin];
    while (!live.stopped && !video.ended) {
      await nextFrame();
      const time = video.srcObject ? (performance.now() - begin) / 1000 : video.currentTime;
      if (live.stopped || !(time > last) || !video.videoWidth) continue;
      last = time;
      const bitmap = await createImageBitmap(video);
      const picture = await createImageBitmap(bitmap);
      const read = await ask("track", { picture, time }, [picture]);
      if (live.stopped) break;
      const faces = facesOf(read);
      const now = performance.now();
      const rate = 1000 / (now - started);
      started = now;
      live.rate = number ? live.rate + 0.1 * (rate - live.rate) : rate;
      live.bitmap?.close();
      Object.assign(live, { bitmap, faces, milliseconds: read.milliseconds });
      live.frames.push({ file: `${name}#${number}`, model: live.model, faces, frame: number++, time });
      if (live.frames.length > MAX_FRAMES) live.frames.shift();
      refresh();
    }
  } catch (error) {
    const isUnknown = error.name === "NotSupportedError";
    const problem = isUnknown ? "not a video that this browser plays (such as MP4 or WebM)" : error.message;
    if (!live.stopped) report(`${name}: ${problem}`, true);
  }
  if (state.live === live) stopVideo();
}

function nextFrame() {
  return new Promise((resolve) => {
    if (!video.requestVideoFrameCallback) requestAnimationFrame(resolve);
    else {
      video.requestVideoFrameCallback(resolve);
      video.addEventListener("ended", resolve, { once: true });
    }
  });
}

/** Ends the video; its last frame stays as a picture, which also saves all frames. */
function stopVideo() {
  const { live } = state;
  if (!live) return;
  live.stopped = true;
  state.live = null;
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  if (video.src) URL.revokeObjectURL(video.src);
  video.srcObject = null;
  video.removeAttribute("src");
  video.load();
  element("stop").hidden = true;
  busy(false);
  if (live.bitmap) {
    const { name, bitmap, faces, milliseconds, model, frames } = live;
    state.items.push({ name, bitmap, faces, milliseconds, model, frames, thumbnail: thumbnail(bitmap) });
    show(state.items.length - 1);
  }
}

// --- showing ---------------------------------------------------------------------------------------------------------

function shown() {
  return state.live?.bitmap ? state.live : state.items[state.current];
}

function viewMode() {
  return document.querySelector("input[name=view]:checked").value;
}

async function show(index) {
  const before = state.items[state.current];
  const item = state.items[index];
  state.current = index;
  state.fitted = true;
  if (before !== item && before?.file) {
    before.bitmap?.close();
    before.bitmap = null;
  }
  if (!item.bitmap) {
    try {
      const bitmap = await decode(item);
      if (state.current !== index || item.bitmap) bitmap.close();
      else item.bitmap = bitmap;
    } catch (error) {
      item.error = error.message;
    }
    if (state.current !== index) return;
  }
  setState("picture");
  refresh();
}

function setState(name) {
  stage.dataset.state = name;
  document.body.classList.toggle("has-picture", name === "picture");
  element("invite").hidden = name === "picture";
  for (const id of ["bar", "zoom", "save", "legend"]) element(id).hidden = name !== "picture";
}

function refresh() {
  draw();
  const item = shown();
  if (!item) return;
  for (const id of ["zoom", "legend"]) element(id).hidden = !item.bitmap;
  const heat = document.querySelector("input[value=heatmap]");
  heat.disabled = Boolean(state.live || item.frames);
  if (heat.disabled && heat.checked) document.querySelector("input[value=points]").checked = true;
  drawStrip();
  drawLegend();
  if (!item.faces) {
    report(item.error ?? "Reading …", Boolean(item.error));
    canvas.setAttribute("aria-label", item.name);
    element("faces").replaceChildren();
    return;
  }
  const count = item.faces.length;
  const names = `${count || "No"} face${count === 1 ? "" : "s"}`;
  const time = `${item.milliseconds.toFixed(item.milliseconds < 10 ? 1 : 0)} ms`;
  canvas.setAttribute("aria-label", `${item.name}: ${names}`);
  if (state.live) {
    quietly(`${names}, ${time} a frame, ${item.rate.toFixed(0)} frames per second`);
  } else {
    const hint = count ? "" : " found. If a face fills the picture, switch on “Face fills the picture”.";
    report(`${item.name}: ${names}${hint || `, found and read in ${time} by ${item.model}`}`);
  }
  describe(item.faces);
}

/** Shows a status that changes often without having screen readers speak it each time. */
function quietly(text) {
  element("status").setAttribute("aria-live", "off");
  element("status").className = "status";
  element("status").textContent = text;
}

function report(text, isError = false) {
  element("status").setAttribute("aria-live", "polite");
  element("status").className = isError ? "status error" : "status";
  element("status").textContent = text;
}

function busy(on) {
  element("busy").hidden = !on;
  stage.setAttribute("aria-busy", String(on));
}

function draw() {
  const item = shown();
  stage.style.aspectRatio = item?.bitmap ? `${item.bitmap.width} / ${item.bitmap.height}` : "";
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [stage.clientWidth, stage.clientHeight];
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  if (!item?.bitmap) return;
  const { bitmap } = item;
  const fit = Math.min(width / bitmap.width, height / bitmap.height);
  if (state.fitted) state.view = { scale: fit, x: 0, y: 0 };
  const { view } = state;
  view.scale = Math.min(Math.max(view.scale, fit), MAX_ZOOM * Math.max(fit, 1));
  view.x = placed(view.x, bitmap.width * view.scale, width);
  view.y = placed(view.y, bitmap.height * view.scale, height);
  stage.classList.toggle("zoomed", view.scale > fit * 1.001);
  element("zoom-value").textContent = `${Math.round(view.scale * 100)} %`;
  drawScene(context, bitmap, item.faces ?? [], view, viewMode());
}

/** A picture smaller than the stage is in its middle; a larger one leaves no gap. */
function placed(start, length, room) {
  return length <= room ? (room - length) / 2 : Math.min(0, Math.max(room - length, start));
}

function drawStrip() {
  const strip = element("strip");
  strip.hidden = state.items.length < 2 || Boolean(state.live);
  if (strip.hidden) return;
  state.items.forEach((item, index) => {
    let entry = strip.children[index];
    if (!entry) {
      entry = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-label", item.name);
      button.title = item.name;
      button.addEventListener("click", () => show(index));
      entry.append(button);
      strip.append(entry);
    }
    if (item.thumbnail && item.thumbnail.parentNode !== entry.firstChild) entry.firstChild.replaceChildren(item.thumbnail);
    else if (item.error && !item.thumbnail) entry.firstChild.textContent = "no picture";
    entry.firstChild.setAttribute("aria-current", String(index === state.current));
  });
}

function thumbnail(bitmap) {
  const small = document.createElement("canvas");
  [small.width, small.height] = [144, 112];
  const scale = Math.max(small.width / bitmap.width, small.height / bitmap.height);
  const [width, height] = [bitmap.width * scale, bitmap.height * scale];
  const context = small.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, (small.width - width) / 2, (small.height - height) / 2, width, height);
  return small;
}

function drawLegend() {
  const entries = {
    points: [["outline", "outline of the face"], ["inner", "brows, eyes, nose, mouth"], ["hollow", "unsure"]],
    errors: [["outline", "outline"], ["inner", "inner points"], ["ellipse", "holds the true point with 90 % probability"]],
    heatmap: [["heat", "how probable the network finds each place"]],
  }[viewMode()];
  element("legend").replaceChildren(
    ...entries.map(([kind, text]) => {
      const entry = document.createElement("span");
      const mark = document.createElement("i");
      mark.className = kind;
      entry.append(mark, text);
      return entry;
    }),
  );
}

function describe(faces) {
  const cards = element("faces");
  while (cards.children.length > faces.length) cards.lastChild.remove();
  faces.forEach((face, index) => {
    let card = cards.children[index];
    if (!card) {
      card = makeCard();
      cards.append(card);
    }
    fillCard(card, face, index);
  });
}

const ROWS = ["Yaw", "Pitch", "Roll", "Right eye", "Left eye", "Mouth"];

function makeCard() {
  const card = document.createElement("article");
  card.className = "card";
  const header = document.createElement("header");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Zoom in";
  header.append(document.createElement("h2"), document.createElement("p"), button);
  const list = document.createElement("dl");
  for (const row of ROWS) {
    const [pair, term, value] = ["div", "dt", "dd"].map((name) => document.createElement(name));
    term.textContent = row;
    pair.append(term, value);
    list.append(pair);
  }
  card.append(header, list);
  return card;
}

function fillCard(card, face, index) {
  const spread = face.spread.reduce((sum, [x, y]) => sum + x + y, 0) / (2 * face.spread.length);
  const title = `Face ${face.id ?? index + 1}`;
  card.querySelector("h2").textContent = title;
  const button = card.querySelector("button");
  button.setAttribute("aria-label", `Zoom to ${title.toLowerCase()}`);
  button.onclick = () => zoomTo(face);
  button.hidden = Boolean(state.live);
  card.querySelector("p").textContent =
    `${Math.round(100 * face.meanConfidence)} % sure, ± ${spread.toFixed(spread < 10 ? 1 : 0)} px`;
  const [right, left] = face.eyeOpening;
  const angle = (value) => (Number.isFinite(value) ? `${Math.round(value)}°`.replace("-", "−") : "");
  const share = (value) => (Number.isFinite(value) ? value.toFixed(2) : "");
  const [yaw, pitch, roll] = face.pose ?? [NaN, NaN, NaN];
  const values = [angle(yaw), angle(pitch), angle(roll), share(right), share(left), share(face.mouthOpening)];
  card.querySelectorAll("dd").forEach((cell, row) => (cell.textContent = values[row] || "–"));
}

// --- zooming and moving ----------------------------------------------------------------------------------------------

function zoomBy(factor, [px, py] = [stage.clientWidth / 2, stage.clientHeight / 2]) {
  if (!shown()?.bitmap) return;
  const before = { ...state.view };
  state.fitted = false;
  state.view.scale *= factor;
  draw(); // limits the scale
  const real = state.view.scale / before.scale;
  state.view.x = px - (px - before.x) * real;
  state.view.y = py - (py - before.y) * real;
  draw();
}

/** Fills the stage with a face. */
function zoomTo({ landmarks }) {
  const [x1, y1, x2, y2] = landmarkBox(landmarks);
  const scale = Math.min(stage.clientWidth, stage.clientHeight) / (1.5 * Math.max(x2 - x1, y2 - y1));
  state.fitted = false;
  state.view.scale = scale;
  draw(); // limits the scale
  const { view } = state;
  view.x = stage.clientWidth / 2 - ((x1 + x2) / 2 + 0.5) * view.scale;
  view.y = stage.clientHeight / 2 - ((y1 + y2) / 2 + 0.5) * view.scale;
  draw();
  stage.scrollIntoView({ block: "nearest" });
}

function fit() {
  state.fitted = true;
  draw();
}

function moveBy(x, y) {
  state.view.x += x;
  state.view.y += y;
  draw();
}

const pointers = new Map();

function positionOf(event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

canvas.addEventListener("pointerdown", (event) => {
  if (!shown()) return;
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, positionOf(event));
});

canvas.addEventListener("pointermove", (event) => {
  const here = positionOf(event);
  if (!pointers.has(event.pointerId)) {
    name(here);
    return;
  }
  const [others, before] = [[...pointers].filter(([id]) => id !== event.pointerId), pointers.get(event.pointerId)];
  pointers.set(event.pointerId, here);
  if (others.length) {
    const [, other] = others[0];
    const apart = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
    zoomBy(apart(here) / Math.max(apart(before), 1), [(here[0] + other[0]) / 2, (here[1] + other[1]) / 2]);
  } else if (stage.classList.contains("zoomed")) moveBy(here[0] - before[0], here[1] - before[1]);
});

for (const type of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(type, (event) => pointers.delete(event.pointerId));
}
canvas.addEventListener("pointerleave", () => (element("readout").hidden = true));

/** Says which point is under the pointer, and how far off it is expected to be. */
function name(place) {
  const faces = shown()?.faces;
  const near = faces && viewMode() !== "heatmap" ? nearestPoint(faces, state.view, place, REACH) : null;
  element("readout").hidden = near === null;
  if (near === null) return;
  const face = faces[near.number];
  const [x, y] = face.spread[near.point];
  const sure = Math.round(100 * face.confidence[near.point]);
  const seen = face.visible ? `, ${Math.round(100 * face.visible[near.point])} % visible` : "";
  element("readout").textContent =
    `${face.layout.pointNames[near.point].replaceAll("_", " ")}: ± ${x.toFixed(1)}, ${y.toFixed(1)} px, ${sure} % sure${seen}`;
}

canvas.addEventListener(
  "wheel",
  (event) => {
    if (!shown()?.bitmap || !(event.ctrlKey || event.metaKey || stage.classList.contains("zoomed"))) return;
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), positionOf(event));
  },
  { passive: false },
);

canvas.addEventListener("dblclick", (event) => (state.fitted ? zoomBy(3, positionOf(event)) : fit()));

const STEP = 60;
const KEYS = {
  "+": () => zoomBy(1.25),
  "=": () => zoomBy(1.25),
  "-": () => zoomBy(0.8),
  0: fit,
  ArrowLeft: () => moveBy(STEP, 0),
  ArrowRight: () => moveBy(-STEP, 0),
  ArrowUp: () => moveBy(0, STEP),
  ArrowDown: () => moveBy(0, -STEP),
  1: () => choose("points"),
  2: () => choose("errors"),
  3: () => choose("heatmap"),
};

canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});

function choose(mode) {
  const input = document.querySelector(`input[value=${mode}]`);
  if (input.disabled) return;
  input.checked = true;
  refresh();
}

// --- saving ----------------------------------------------------------------------------------------------------------

function records() {
  const read = state.live ? [{ frames: state.live.frames }] : state.items.filter(({ faces }) => faces);
  return read.flatMap((item) => item.frames ?? [{ file: item.name, model: item.model, faces: item.faces }]);
}

function stem(name) {
  return name.replace(/\.[^.]*$/, "") || "picture";
}

const SAVE = {
  json: () => download("predictions.json", toJson(records()), "application/json"),
  csv: () => download("predictions.csv", toCsv(records()), "text/csv"),
  coco: () => download("predictions.coco.json", toCoco(records()), "application/json"),
  pts() {
    const { name: file, faces } = shown();
    (faces ?? []).forEach((face, index) => {
      download(`${stem(file)}${index ? `#${index + 1}` : ""}.pts`, toPts(face), "text/plain");
    });
    if (!faces?.length) report("No face to save: a .pts file holds one");
  },
  png() {
    const { name: file, bitmap, faces } = shown();
    if (!bitmap) return;
    const scale = Math.min(Math.max(1, Math.ceil(800 / Math.max(bitmap.width, bitmap.height))), 8);
    const target = document.createElement("canvas");
    [target.width, target.height] = [bitmap.width * scale, bitmap.height * scale];
    drawScene(target.getContext("2d"), bitmap, faces ?? [], { scale, x: 0, y: 0 }, viewMode());
    target.toBlob((blob) => download(`${stem(file)}.overlay.png`, blob, "image/png"));
  },
};

function download(name, content, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// --- the page's own events -------------------------------------------------------------------------------------------

const ACTIONS = {
  choose: () => element("files").click(),
  camera: startCamera,
  stop: stopVideo,
  async example() {
    const response = await fetch(new URL("./example.jpg", import.meta.url));
    await addFiles([new File([await response.blob()], "example.jpg", { type: "image/jpeg" })]);
  },
  "zoom-in": () => zoomBy(1.25),
  "zoom-out": () => zoomBy(0.8),
  "zoom-fit": fit,
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.action) ACTIONS[button.dataset.action]();
  if (button?.dataset.save) SAVE[button.dataset.save]();
});

element("files").addEventListener("change", async ({ target }) => {
  const files = [...target.files];
  target.value = "";
  await addFiles(files);
});

for (const id of ["model", "drawing", "full-frame", "refine"]) element(id).addEventListener("change", settingsChanged);
for (const input of document.querySelectorAll("input[name=view]")) input.addEventListener("change", refresh);
window.addEventListener("resize", draw);

document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) addFiles(files);
});

let dragged = 0; // elements entered and not left
document.addEventListener("dragenter", (event) => {
  event.preventDefault();
  dragged += 1;
  element("dropping").hidden = false;
});
document.addEventListener("dragleave", () => {
  dragged -= 1;
  element("dropping").hidden = dragged > 0;
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  dragged = 0;
  element("dropping").hidden = true;
  addFiles(event.dataTransfer.files);
});

/** The schematic face of the empty stage, from the points of the layout. */
function drawInvitation() {
  const face = element("invite-face");
  const outline = new Set(state.layout.outline);
  for (const [index, [x, y]] of state.layout.diagram.entries()) {
    const dot = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    dot.setAttribute("cx", 4 + 88 * x);
    dot.setAttribute("cy", 4 + 88 * y);
    dot.setAttribute("r", 1.5);
    dot.setAttribute("class", outline.has(index) ? "outline" : "inner");
    face.append(dot);
  }
}

async function start() {
  busy(true);
  report("Loading …");
  try {
    await listModels();
    ask("warmUp", await prepared()).catch(() => {}); // what is wrong shows with the first picture
    element("refine").disabled = !canRefine();
    drawInvitation();
    report("");
  } catch (error) {
    report(error.message, true);
  }
  busy(false);
  document.body.dataset.ready = "true";
  try {
    await navigator.serviceWorker?.register(new URL("./sw.js", import.meta.url));
  } catch {
    // the page works without it, online only: as from an address without https
  }
}

start();

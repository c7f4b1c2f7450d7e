/**
 * The pose of a head: a generic head in 3D laid on the points of a face (octamark.layouts.head in Python).
 *
 * Perspective-n-point by Levenberg and Marquardt's method, which starts from the pose under scaled orthographic
 * projection (D. DeMenthon and L. Davis, Model-Based Object Pose in 25 Lines of Code, 1995).
 */
const DISTANCE = 80; // centimetres between the camera and the head
const FULL_OUTLINE = 5; // degrees of yaw up to which both sides of the outline count
const HALF_OUTLINE = 20; // and from which only the near one does
const MIN_POINTS = 4;
const ROUNDS = 30;

/**
 * Yaw, pitch and roll in degrees of a face; NaN where fewer than four points count, or all lie on one line.
 * @param {number[][]} landmarks
 * @param head { points: [x, y, z] or null, rigid, right, left: indices }
 */
export function headPose(landmarks, head) {
  const solve = (indices) => {
    const known = indices.filter((index) => head.points[index] !== null && landmarks[index].every(Number.isFinite));
    return solved(known.map((index) => head.points[index]), known.map((index) => landmarks[index]));
  };
  const first = solve(head.rigid);
  if (Number.isNaN(first[0]) || !(head.right.length + head.left.length)) return first;
  const near = solve([...head.rigid, ...(first[0] > 0 ? head.right : head.left)]);
  const share = Math.min(Math.max((HALF_OUTLINE - Math.abs(first[0])) / (HALF_OUTLINE - FULL_OUTLINE), 0), 1);
  if (share === 0) return near;
  const both = solve([...head.rigid, ...head.right, ...head.left]);
  return near.map((angle, axis) => angle + share * (((((both[axis] - angle + 180) % 360) + 360) % 360) - 180));
}

function solved(head, places) {
  const none = [NaN, NaN, NaN];
  if (places.length < MIN_POINTS) return none;
  const shape = head.map(([x, y, z]) => [x, -y, -z]); // the camera's axes: y down, z into the picture
  const centre = average(places);
  const middle = average(shape);
  const arms = shape.map((point) => minus(point, middle));
  const offsets = places.map((point) => minus(point, centre));
  const [xx, yy, xy] = offsets.reduce(([a, b, c], [x, y]) => [a + x * x, b + y * y, c + x * y], [0, 0, 0]);
  const least = (xx + yy - Math.hypot(xx - yy, 2 * xy)) / 2;
  if (!(least > 1e-12 * (xx + yy))) return none;
  // two of three axes of the head are seen, on average over all directions
  const focal = DISTANCE * Math.sqrt((1.5 * (xx + yy)) / arms.reduce((sum, arm) => sum + dot(arm, arm), 0));
  let pose = orthographic(arms, offsets, middle, focal);
  if (pose === null) return none;
  let error = residuals(shape, offsets, pose, focal).error;
  let damping = 1e-3;
  for (let round = 0; round < ROUNDS; round++) {
    const { normal, gradient } = residuals(shape, offsets, pose, focal);
    const step = linearSolution(
      normal.map((row, index) => row.map((value, column) => (index === column ? value * (1 + damping) : value))),
      gradient,
    );
    if (step === null) break;
    const moved = { rotation: times(turn(step.slice(0, 3)), pose.rotation), shift: minus(pose.shift, step.slice(3).map((v) => -v)) };
    const next = residuals(shape, offsets, moved, focal).error;
    if (!(next < error)) {
      damping *= 10;
      if (damping > 1e6) break;
      continue;
    }
    const gain = (error - next) / error;
    [pose, error, damping] = [moved, next, damping / 10];
    if (gain < 1e-12) break;
  }
  const flip = [1, -1, -1];
  return angles(pose.rotation.map((row, i) => row.map((value, j) => value * flip[i] * flip[j])));
}

/** The pose under scaled orthographic projection, in camera coordinates with the face's middle on the axis. */
function orthographic(arms, offsets, middle, focal) {
  const moment = [0, 1, 2].map((i) => [0, 1, 2].map((j) => arms.reduce((sum, arm) => sum + arm[i] * arm[j], 0)));
  const row = (axis) =>
    linearSolution(moment, [0, 1, 2].map((i) => arms.reduce((sum, arm, n) => sum + arm[i] * offsets[n][axis], 0)));
  const [along, across] = [row(0), row(1)];
  if (along === null || across === null) return null;
  const scale = (length(along) + length(across)) / 2;
  const x = along.map((value) => value / length(along));
  const rest = across.map((value, index) => value - dot(across, x) * x[index]);
  const y = rest.map((value) => value / length(rest));
  const z = [x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0]];
  const rotation = [x, y, z];
  const turned = rotation.map((axis) => dot(axis, middle));
  return { rotation, shift: [-turned[0], -turned[1], focal / scale - turned[2]] };
}

/** The squared error in the picture, and the normal equations of a small turn and shift that lower it. */
function residuals(shape, places, { rotation, shift }, focal) {
  const normal = Array.from({ length: 6 }, () => new Array(6).fill(0));
  const gradient = new Array(6).fill(0);
  let error = 0;
  shape.forEach((point, index) => {
    const [a, b, c] = rotation.map((axis) => dot(axis, point));
    const [x, y, z] = [a + shift[0], b + shift[1], c + shift[2]];
    const scale = focal / z;
    const rows = [
      [[scale, 0, -(scale * x) / z], places[index][0] - scale * x],
      [[0, scale, -(scale * y) / z], places[index][1] - scale * y],
    ];
    for (const [d, left] of rows) {
      // the derivative by a turn (p, q, r) of the turned point (a, b, c) is the cross product of both
      const row = [d[2] * b - d[1] * c, d[0] * c - d[2] * a, d[1] * a - d[0] * b, ...d];
      error += left * left;
      for (let i = 0; i < 6; i++) {
        gradient[i] += row[i] * left;
        for (let j = 0; j < 6; j++) normal[i][j] += row[i] * row[j];
      }
    }
  });
  return { error, normal, gradient };
}

/** The rotation by a vector: its direction is the axis, its length the angle (Rodrigues). */
function turn(vector) {
  const angle = length(vector);
  if (angle === 0) return [[1, 0, 0], [0, 1, 0], [0, 0, 1]];
  const [x, y, z] = vector.map((value) => value / angle);
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
  const rest = 1 - cos;
  return [
    [cos + x * x * rest, x * y * rest - z * sin, x * z * rest + y * sin],
    [y * x * rest + z * sin, cos + y * y * rest, y * z * rest - x * sin],
    [z * x * rest - y * sin, z * y * rest + x * sin, cos + z * z * rest],
  ];
}

/** Yaw, pitch and roll in degrees of a rotation from the axes of a head to those of the picture. */
function angles(rotation) {
  const toward = rotation[2];
  const yaw = Math.atan2(-toward[0], toward[2]);
  const pitch = Math.asin(Math.min(Math.max(-toward[1], -1), 1));
  const roll = Math.atan2(-rotation[0][1], rotation[1][1]);
  return [yaw, pitch, roll].map((angle) => (angle * 180) / Math.PI);
}

/** The solution of a small system of linear equations, by elimination with pivots; null where there is none. */
function linearSolution(matrix, right) {
  const rows = matrix.map((row, index) => [...row, right[index]]);
  const size = rows.length;
  for (let column = 0; column < size; column++) {
    let pivot = column;
    for (let row = column + 1; row < size; row++) {
      if (Math.abs(rows[row][column]) > Math.abs(rows[pivot][column])) pivot = row;
    }
    if (!(Math.abs(rows[pivot][column]) > 1e-300)) return null;
    [rows[column], rows[pivot]] = [rows[pivot], rows[column]];
    for (let row = 0; row < size; row++) {
      if (row === column) continue;
      const factor = rows[row][column] / rows[column][column];
      for (let at = column; at <= size; at++) rows[row][at] -= factor * rows[column][at];
    }
  }
  return rows.map((row, index) => row[size] / row[index]);
}

function times(first, second) {
  return first.map((row) => [0, 1, 2].map((column) => row.reduce((sum, value, k) => sum + value * second[k][column], 0)));
}

function average(points) {
  return points[0].map((_, axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
}

function minus(first, second) {
  return first.map((value, index) => value - second[index]);
}

function dot(first, second) {
  return first.reduce((sum, value, index) => sum + value * second[index], 0);
}

function length(vector) {
  return Math.hypot(...vector);
}

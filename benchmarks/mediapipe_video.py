"""MediaPipe's face mesh on pictures from the standard input; ``benchmarks.video`` starts this with another interpreter.

    PYTHON mediapipe_video.py HEIGHT WIDTH VIDEO    VIDEO: 1 if the pictures are successive frames, 0 if not

Each picture is HEIGHT * WIDTH * 3 bytes RGB. The answer to each are 468 * 2 float32, pixels with centres at whole
numbers; NaN without a face."""

from __future__ import annotations

import sys

import mediapipe
import numpy as np

VERTICES = 468


def main() -> None:
    height, width, video = (int(word) for word in sys.argv[1:4])
    with mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=not video, max_num_faces=1) as mesh:
        while len(data := sys.stdin.buffer.read(height * width * 3)) == height * width * 3:
            faces = mesh.process(np.frombuffer(data, np.uint8).reshape(height, width, 3)).multi_face_landmarks
            points = np.full((VERTICES, 2), np.nan, np.float32)
            if faces:
                shares = [(point.x, point.y) for point in faces[0].landmark[:VERTICES]]
                points[:] = np.array(shares) * (width, height) - 0.5
            sys.stdout.buffer.write(points.tobytes())
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()

"""MediaPipe's face mesh on pictures from the standard input; ``benchmarks.video`` starts this with another interpreter.

    python -m benchmarks.mediapipe_video HEIGHT WIDTH VIDEO

Each picture is HEIGHT * WIDTH * 3 bytes RGB. The answer to each are 468 * 2 float32, pixels with centres at whole
numbers; NaN without a face."""

from __future__ import annotations

import argparse
import sys

import numpy as np

VERTICES = 468


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("height", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("video", type=int, choices=(0, 1), help="1: the pictures are successive frames")
    arguments = parser.parse_args()
    import mediapipe

    height, width, alone = arguments.height, arguments.width, not arguments.video
    with mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=alone, max_num_faces=1) as mesh:
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

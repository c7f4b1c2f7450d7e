"""A process that renders some seeds: ``python -m octamark.synthesis.rendering.worker JOB.json``.

Each line on standard output is one event as JSON: ``{"start": seed}``, ``{"done": seed}`` or ``{"failed": seed, "why":
message}``. The process may die in between (Mitsuba's compiled kernels crash now and then); ``farm`` starts another one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from octamark.images import write_atomically
from octamark.synthesis.rendering.assets import Assets
from octamark.synthesis.rendering.folder import RenderFolder


def main(job_file: str) -> None:
    """Render the seeds of a job."""
    job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    from octamark.synthesis.rendering.scene import Renderer, load_mitsuba
    from octamark.synthesis.rendering.skin import to_linear

    cv2.setNumThreads(1)
    load_mitsuba()
    import drjit

    drjit.set_thread_count(max(2, int(job["threads"])))  # a pool of one waits for ever
    folder = RenderFolder(Path(job["folder"]))
    crowd = [to_linear(picture) for picture in folder.crowd()] if not job["crowd"] else []
    renderer = Renderer(
        Assets(Path(job["assets"])), int(job["size"]), int(job["samples"]), crowd, float(job["caricatures"])
    )
    for seed in job["seeds"]:
        _tell({"start": seed})
        try:
            rendering = renderer.render(seed)
        except (ValueError, ArithmeticError, IndexError, RuntimeError, np.linalg.LinAlgError) as error:
            _tell({"failed": seed, "why": f"{type(error).__name__}: {error}"})
            continue
        if job["crowd"]:
            small = cv2.resize(rendering.picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            write_atomically(folder.crowd_picture(seed), _png(small))
        else:
            rendering.labels.write(folder.labels(seed))
            write_atomically(folder.picture(seed), _png(rendering.picture))  # last: its presence says that all is done
        _tell({"done": seed})


def _png(picture: Any) -> bytes:
    written, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not written:
        raise RuntimeError("the picture cannot be encoded")
    return bytes(data)


def _tell(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

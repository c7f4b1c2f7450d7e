"""A predictor with which processes die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator

from octamark.cluster import LandmarkPredictor
from octamark.cluster.predictor import Outcome


class Poisoned(LandmarkPredictor):
    """Ends its process at pictures whose name begins with ``poison``, and never ends at those that begin with
    ``endless``."""

    def outcomes(self, files: Iterable[str]) -> Iterator[Outcome]:
        for file in files:
            if os.path.basename(file).startswith("poison"):
                os.kill(os.getpid(), signal.SIGSEGV)
            if os.path.basename(file).startswith("endless"):
                time.sleep(3600)
            yield from super().outcomes([file])

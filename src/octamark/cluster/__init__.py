"""Millions of pictures: one predictor for Ray Data, Spark and Dask, and the job behind ``octamark batch``.

Paths travel between the machines, pictures do not. Results are Parquet; ``octamark.io.parquet`` documents the columns.
It needs pyarrow, and ``run`` needs Ray.
"""

from octamark.cluster.inputs import InputsFound, find_inputs, is_video
from octamark.cluster.job import JobOptions, Progress, Summary, run
from octamark.cluster.predictor import LandmarkPredictor

__all__ = ["InputsFound", "JobOptions", "LandmarkPredictor", "Progress", "Summary", "find_inputs", "is_video", "run"]

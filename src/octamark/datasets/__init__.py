"""Readers of labelled and unlabelled face sets. Every reader gives a list of :class:`Sample`."""

from octamark.datasets.samples import Sample, read_pts

__all__ = ["Sample", "read_pts"]

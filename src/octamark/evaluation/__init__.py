"""Scores of detectors on labelled faces: prediction over a set, results, plots, robustness."""

"""The scores of a finished training run, as research/results.csv keeps them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.adaptation import at_night
from benchmarks.caricatures import caricature_sets

from octamark.datasets import Sample
from octamark.datasets.load import training_and_validation
from octamark.geometry import Picture, apply, crop, crop_transform, landmark_boxes, squares
from octamark.layouts import conversion, layout
from octamark.metrics import distances, failure_rate, nme, point_errors
from octamark.nets import heatmaps
from octamark.nets.network import STRIDE, OctaveNetwork
from octamark.training import checkpoints
from octamark.training.data import FaceStore, centre_crops
from octamark.training.objectives.teacher import read_twice
from octamark.training.recipe import Data, Recipe
from octamark.training.starting import trained_network

BATCH = 32

Reader = Callable[[Sequence[Picture], np.ndarray], np.ndarray]
"""Pictures and their true landmarks (n, M, 2), which give the boxes -> landmarks (n, M, 2) that the network finds."""


def score(folder: Path, data: Path, slow: frozenset[str], portraits: Path | None = None) -> dict[str, Any]:
    """The scores of the last epoch's averaged weights on the validation faces, by column of results.csv.

    Args:
        folder: of the run.
        data: 300W's folder.
        portraits: the London set's file, for networks that learned from rendered heads.
        slow: scores to measure besides: ``strong`` for caricatures of all strengths, ``night`` for the night camera.
    """
    if "regional" in json.loads((folder / "recipe.json").read_text()):
        return regional_scores(folder)
    network, recipe, meta = trained_network(folder / "last.safetensors")
    table, size = layout(recipe.layout), recipe.stages[-1].size
    photographs = recipe.data if recipe.data[0].format == "300w" else Data()
    _, held_out = training_and_validation(photographs, data, table, recipe.seed)
    held_out = sorted(held_out, key=lambda sample: sample.name)
    store = FaceStore.load(held_out, size, recipe.margin)
    errors, spreads, entropies = [], [], []
    for pictures, truth in batches(store, size):
        with torch.no_grad():
            maps = heatmaps.probabilities(network(pictures), recipe.loss.beta)
        points = heatmaps.decode(maps)
        found = heatmaps.to_input_pixels(points, STRIDE).position
        errors.append(nme(found.numpy(), truth.numpy(), table))
        spreads.append(points.spread.mean(dim=(1, 2)))
        entropies.append(torch.special.entr(maps).sum(dim=(2, 3)).mean(dim=1))
    every = np.concatenate(errors)
    scores: dict[str, Any] = {
        "nme": float(every.mean()),
        "best_nme": min(line["validation_nme"] for line in meta["rows"]),
        "failures": failure_rate(every),
        "entropy": float(torch.cat(entropies).mean()),
        "spread": float(torch.cat(spreads).mean()),
        "seconds": sum(line["seconds"] for line in meta["rows"]),
        "faces": len(every),
        "unlabelled_faces": meta.get("unlabelled"),
    }
    read = reader(network, recipe)
    if photographs is not recipe.data:
        assert portraits is not None
        scores |= open_scores(network, recipe, held_out, portraits)
    if "strong" in slow:
        sets = caricature_sets(FaceStore.load(held_out, 224, recipe.margin), table)
        scores |= {name: float(nme(read(*pair), pair[1], table).mean()) for name, pair in sets.items()}
    if "night" in slow:
        pairs = [at_night(sample, number) for number, sample in enumerate(held_out)]
        truth = np.array([points for _, points in pairs])
        scores["night"] = float(nme(read([picture for picture, _ in pairs], truth), truth, table).mean())
    if recipe.unlabelled is not None and recipe.unlabelled.teacher is not None and recipe.data[0].share < 1:
        scores |= teacher_scores(network, recipe, data)
    return scores


def open_scores(
    network: OctaveNetwork, recipe: Recipe, held_out: Sequence[Sample], portraits: Path
) -> dict[str, float]:
    """Further scores of a network that learned from rendered heads; see octamark's research/tables.py.

    Args:
        held_out: 300W's validation faces.
        portraits: the London set's file. Portraits that the recipe trains on are left out.
    """
    table, size, london = layout(recipe.layout), recipe.stages[-1].size, layout("frl189")
    known = conversion(london, table).exact

    def errors(samples: Sequence[Sample]) -> np.ndarray:
        """(n, M, 2) signed errors as shares of the inter-ocular distance."""
        parts = []
        for pictures, truth in batches(FaceStore.load(samples, size, recipe.margin), size):
            with torch.no_grad():
                points = heatmaps.decode(heatmaps.probabilities(network(pictures), recipe.loss.beta))
            found = heatmaps.to_input_pixels(points, STRIDE).position.numpy()
            eyes = distances(truth.numpy(), table, "inter-ocular")
            parts.append((found - truth.numpy()) / eyes[:, None, None])
        return np.concatenate(parts)

    photographs = errors(held_out)
    by_face = np.linalg.norm(photographs, axis=2).mean(axis=1)
    trained = [section for section in recipe.data if section.layout == london.name and not section.held_out]
    section = trained[0] if trained else Data(format="coco", layout=london.name, validation=1.0)
    _, others = training_and_validation(section, portraits, table, recipe.seed)
    return {
        "failures_10": failure_rate(by_face, 0.1),
        "without_offsets": float(np.linalg.norm(photographs - photographs.mean(axis=0), axis=2).mean()),
        "portraits": float(np.linalg.norm(errors(others)[:, known], axis=2).mean()),
    }


def batches(store: FaceStore, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Centre crops of a store and their landmarks, batch by batch."""
    starts = range(0, len(store), BATCH)
    return [centre_crops(store, torch.arange(first, min(first + BATCH, len(store))), size) for first in starts]


def reader(network: OctaveNetwork, recipe: Recipe) -> Reader:
    """A function that reads faces with a network, in crops around the boxes of their labels."""
    size = recipe.stages[-1].size

    def read(pictures: Sequence[Picture], truth: np.ndarray) -> np.ndarray:
        transforms = [crop_transform(squares(landmark_boxes(points), recipe.margin)[0], size) for points in truth]
        crops = [crop(picture, transform, size) for picture, transform in zip(pictures, transforms, strict=True)]
        stacked = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            logits = torch.cat([network(part) for part in stacked.split(BATCH)])
        points = heatmaps.decode(heatmaps.probabilities(logits, recipe.loss.beta))
        found = heatmaps.to_input_pixels(points, STRIDE).position.numpy()
        return np.array([apply(transform, face) for transform, face in zip(transforms, found, strict=True)])

    return read


def regional_scores(folder: Path) -> dict[str, float | None]:
    """The scores of a regional run's last epoch, and those of the global network alone, from its log."""
    lines = checkpoints.load(folder / "last.safetensors")[1]["rows"]
    last = lines[-1]
    return {
        "nme": last["validation_nme"], "global_nme": last["global_nme"], "eyes_nme": last["eyes_nme"],
        "mouth_nme": last["mouth_nme"], "best_nme": min(line["validation_nme"] for line in lines),
        "failures": last["validation_fr8"], "views_apart": last["views_apart"] or None,
        "seconds": sum(line["seconds"] for line in lines),
    }  # fmt: skip


def teacher_scores(network: OctaveNetwork, recipe: Recipe, data: Path) -> dict[str, float]:
    """How wrong a mean teacher is on the training faces whose labels it did not get.

    Its points are sorted by spread into quarters. For each quarter: the mean spread (heatmap pixels) and the mean error
    (% of the inter-ocular distance).
    """
    table, size = layout(recipe.layout), recipe.stages[-1].size
    all_labels = [section.model_copy(update={"share": 1.0}) for section in recipe.data]
    labelled, known = (training_and_validation(part, data, table, recipe.seed)[0] for part in (all_labels, recipe.data))
    names = {sample.name for sample in known}
    others: list[Sample] = [sample for sample in labelled if sample.name not in names]
    spreads, errors, mirror = [], [], torch.from_numpy(table.mirror.copy())
    for pictures, truth in batches(FaceStore.load(others, size, recipe.margin), size):
        with torch.no_grad():
            points = heatmaps.decode(read_twice(network, pictures, recipe.loss.beta, mirror))
        found = heatmaps.to_input_pixels(points, STRIDE).position
        spreads.append(points.spread.mean(dim=2).numpy())
        eyes = distances(truth.numpy(), table, "inter-ocular")
        errors.append(100 * point_errors(found.numpy(), truth.numpy()) / eyes[:, None])
    spread, error = np.concatenate(spreads).ravel(), np.concatenate(errors).ravel()
    quarters = np.array_split(np.argsort(spread), 4)
    return {
        f"teacher_{kind}_{number}": float(values[quarter].mean())
        for number, quarter in enumerate(quarters, 1)
        for kind, values in (("error", error), ("spread", spread))
    }

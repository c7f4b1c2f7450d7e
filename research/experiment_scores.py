"""What a finished run of experiments.py came to: scores.json and heatmaps.png in its folder."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from adaptation import at_night
from octamark.training.teacher import read_twice

import octamark
from octamark.datasets import Sample
from octamark.datasets.load import training_and_validation
from octamark.drawing import heatmap_picture
from octamark.faces import Faces
from octamark.geometry import apply, crop, crop_transform, detector_squares, invert, landmark_boxes, squares
from octamark.images import write_atomically, write_picture
from octamark.layouts import layout
from octamark.metrics import distances, failure_rate, nme, point_errors
from octamark.nets import heatmaps
from octamark.nets.network import STRIDE, OctaveNetwork
from octamark.synthesis.caricature import STRENGTHS, Caricaturist, stylised
from octamark.training import checkpoints
from octamark.training.data import FaceStore, centre_crops
from octamark.training.recipe import Config
from octamark.training.starting import trained_network


def score(folder: Path, data: Path, also: set[str]) -> None:
    """Score the last epoch's averaged weights on the validation faces; draw the heatmaps of the free portrait.

    Args:
        also: scores that take longer: "strong" for caricatures of all strengths, "night" for the night camera.
    """
    if "regional" in json.loads((folder / "recipe.json").read_text()):
        write_atomically(folder / "scores.json", json.dumps(regional_scores(folder), indent=2).encode())
        return
    network, config, meta = trained_network(folder / "last.safetensors")
    _, held_out = training_and_validation(config.data, data, layout(config.layout), config.seed)
    size = config.stages[-1].size
    store = FaceStore.load(held_out, size, config.data.margin)
    errors, spreads, entropies = [], [], []
    with torch.no_grad():
        for first in range(0, len(store), 32):
            pictures, truth = centre_crops(store, torch.arange(first, min(first + 32, len(store))), size)
            p = heatmaps.probabilities(network(pictures), config.loss.beta)
            points = heatmaps.decode(p)
            found = heatmaps.to_input_pixels(points, STRIDE).position
            errors.append(nme(found.numpy(), truth.numpy(), layout(config.layout)))
            spreads.append(points.spread.mean(dim=(1, 2)))
            entropies.append(torch.special.entr(p).sum(dim=(2, 3)).mean(dim=1))
        face = torch.from_numpy(portrait(size))
        maps = heatmaps.probabilities(network(face.permute(2, 0, 1)[None] / 255), config.loss.beta)[0].numpy()
    write_picture(folder / "heatmaps.png", glowing(face.numpy(), maps))
    joined = np.concatenate(errors)
    drawn = on_caricatures(network, config, held_out) if "strong" in also else {}
    if "night" in also:
        drawn["night"] = by_night(network, config, held_out)
    taught = config.unlabelled is not None and config.unlabelled.teacher is not None and config.data.share < 1
    scores = {
        "nme": float(joined.mean()),
        "best": min(row["validation_nme"] for row in meta["rows"]),
        "failures": failure_rate(joined),
        "entropy": float(torch.cat(entropies).mean()),
        "spread": float(torch.cat(spreads).mean()),
        "seconds": sum(row["seconds"] for row in meta["rows"]),
        "faces": len(joined),
        **drawn,
        "unlabelled": meta.get("unlabelled"),
        "pseudo_labels": pseudo_labels(network, config, data) if taught else None,
    }
    write_atomically(folder / "scores.json", json.dumps(scores, indent=2).encode())


def on_caricatures(network: OctaveNetwork, config: Config, samples: list[Sample]) -> dict[str, float]:
    """NME on the validation faces as caricatures, crops from their labels, by strength."""
    one, size = layout(config.layout), config.stages[-1].size
    store = FaceStore.load(sorted(samples, key=lambda sample: sample.name), 224, config.data.margin)
    found = {}
    for strength in STRENGTHS:
        pictures, truth = stylised(store.pictures, store.landmarks, Caricaturist(one), strength)
        crops, places = [], []
        for picture, landmarks in zip(pictures, truth.numpy(), strict=True):
            square = squares(landmark_boxes(landmarks), config.data.margin)[0]
            transform = crop_transform(square, size)
            crops.append(crop(np.ascontiguousarray(picture.permute(1, 2, 0).numpy()), transform, size))
            places.append(apply(invert(transform), landmarks))
        found[strength] = float(nme(read(network, config, crops), np.array(places), one).mean())
    return found


def by_night(network: OctaveNetwork, config: Config, samples: list[Sample]) -> float:
    """NME on the validation faces as adaptation.py's night camera takes them, crops from their labels."""
    one, size, crops, places = layout(config.layout), config.stages[-1].size, [], []
    for number, sample in enumerate(sorted(samples, key=lambda sample: sample.name)):
        picture, landmarks = at_night(sample, number)
        transform = crop_transform(squares(landmark_boxes(landmarks[None]), config.data.margin)[0], size)
        crops.append(crop(picture, transform, size))
        places.append(apply(invert(transform), landmarks))
    return float(nme(read(network, config, crops), np.array(places), one).mean())


def read(network: OctaveNetwork, config: Config, crops: list[np.ndarray]) -> np.ndarray:
    """Landmarks (n, M, 2), input pixels, of crops (size, size, 3) uint8."""
    stacked = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        maps = torch.cat([network(part) for part in stacked.split(32)])
    points = heatmaps.to_input_pixels(heatmaps.decode(heatmaps.probabilities(maps, config.loss.beta)), STRIDE)
    return points.position.numpy()


def regional_scores(folder: Path) -> dict[str, float | None]:
    """What the last epoch of a regional run came to, from its log, and how far the global network got alone."""
    rows = checkpoints.load(folder / "last.safetensors")[1]["rows"]
    last = rows[-1]
    return {
        "nme": last["validation_nme"], "look": last["look_nme"], "eyes": last["eyes_nme"], "mouth": last["mouth_nme"],
        "best": min(row["validation_nme"] for row in rows), "failures": last["validation_fr8"],
        "apart": last["apart"] or None, "seconds": sum(row["seconds"] for row in rows), "unlabelled": None,
    }  # fmt: skip


def pseudo_labels(network: OctaveNetwork, config: Config, data: Path) -> list[dict[str, float]]:
    """What a mean teacher says of training faces whose labels it did not get: for each quarter of its points, from the
    least to the greatest spread, the mean spread (heatmap pixels) and the mean error (% of the inter-ocular distance).
    """
    one, size = layout(config.layout), config.stages[-1].size
    everything = config.data.model_copy(update={"share": 1.0})
    labelled, known = (training_and_validation(d, data, one, config.seed)[0] for d in (everything, config.data))
    names = {sample.name for sample in known}
    store = FaceStore.load([sample for sample in labelled if sample.name not in names], size, config.data.margin)
    spreads, errors, mirror = [], [], torch.from_numpy(one.mirror.copy())
    with torch.no_grad():
        for first in range(0, len(store), 32):
            pictures, truth = centre_crops(store, torch.arange(first, min(first + 32, len(store))), size)
            points = heatmaps.decode(read_twice(network, pictures, config.loss.beta, mirror))
            found = heatmaps.to_input_pixels(points, STRIDE).position
            spreads.append(points.spread.mean(dim=2).numpy())
            eyes = distances(truth.numpy(), one, "inter-ocular")
            errors.append(100 * point_errors(found.numpy(), truth.numpy()) / eyes[:, None])
    spread, error = np.concatenate(spreads).ravel(), np.concatenate(errors).ravel()
    quarters = np.array_split(np.argsort(spread), 4)
    return [{"spread": float(spread[q].mean()), "error": float(error[q].mean())} for q in quarters]


def portrait(size: int) -> np.ndarray:
    """The crop (size, size, 3) of scikit-image's public-domain portrait that a released model would read."""

    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("error: the portrait comes with scikit-image: pip install --no-deps scikit-image")
    picture = octamark.read_picture(Path(spec.origin).parent / "data" / "astronaut.png")
    boxes, _ = octamark.FaceDetector()(picture)
    rule = octamark.load("small").card.crop
    square = detector_squares(boxes[:1], rule.detector_scale, rule.detector_shift)[0]
    return crop(picture, crop_transform(square, size), size)


def glowing(crop: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Heatmaps (M, h, w) of a crop over it, three times enlarged."""

    side = 3 * len(crop)
    large = cv2.resize(crop, (side, side), interpolation=cv2.INTER_CUBIC)
    one = Faces.empty(layout("ibug68"), (side, side))
    points = np.zeros((1, 68, 2), np.float32)
    matrix = np.array([[[3.0, 0.0, 1.0], [0.0, 3.0, 1.0]]])
    one = dataclasses.replace(one, landmarks=points, crops=matrix, heatmaps=maps[None])
    return heatmap_picture(large, one)

"""From a run to a weight file: fit the crop rule and the spread, score on validation, write the card, export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from octamark._version import __version__
from octamark.datasets import Sample
from octamark.datasets.load import training_and_validation
from octamark.detector import FaceDetector
from octamark.geometry import apply, crop, crop_transform, detector_squares, landmark_boxes, squares
from octamark.imaging import read_picture
from octamark.layouts import Layout, layout
from octamark.metrics import failure_rate, nme
from octamark.nets.export import Predictor, to_onnx
from octamark.nets.network import OctaveNetwork
from octamark.training import checkpoints
from octamark.training.calibration import detected_boxes, fit_crop_rule, fit_spread_gain
from octamark.training.config import Config, parse
from octamark.training.starting import network_config
from octamark.weights import CropRule, ModelCard

TERMS_300W = (
    "research use only, non-commercial: the terms of the training pictures (C. Sagonas et al., 300 Faces "
    "In-the-Wild; AFW, HELEN, LFPW likewise)"
)


@dataclass(frozen=True)
class Release:
    """A finished model: the ONNX file, its card, and the averaged weights as a float16 checkpoint."""

    onnx: bytes
    card: ModelCard
    checkpoint: bytes


def load_network(path: Path) -> tuple[OctaveNetwork, Config, dict[str, Any]]:
    """The averaged weights of a run's best epoch (a folder) or of a checkpoint, with recipe and metadata.

    Raises:
        WeightsError: missing or damaged checkpoint.
    """
    file = path / "best.safetensors" if path.is_dir() else path
    groups, meta = checkpoints.load(file)
    if path.is_dir():
        meta["rows"] = checkpoints.load(path / "last.safetensors")[1]["rows"]  # the best epoch's file ends with it
    config = parse(meta["config"], str(file))
    network = OctaveNetwork(network_config(config))
    checkpoints.fill(network, groups.get("ema", {}), file)
    return network.eval(), config, meta


def release(
    run: Path, data: Path, *, half: bool = True, advance: Callable[[int, int], None] = lambda done, total: None
) -> Release:
    """Finish a run.

    The crop rule's map from detector boxes is fitted on training faces; the spread's gain on validation faces; the
    scores are those of the exported file in ONNX Runtime on the validation faces.

    Raises:
        WeightsError, DataError: as the readers raise them.
    """
    network, config, meta = load_network(run)
    one = layout(config.layout)
    training, validation = training_and_validation(config.data, data, one, config.seed)
    size, margin = config.stages[-1].size, config.data.margin
    learned, terms = f"300W {config.data.split}, {len(training)} faces ({len(validation)} held out)", TERMS_300W
    if "unlabelled" in meta:
        learned, terms = f"{learned}; without labels: {meta['unlabelled']}", f"{terms}; and those of the unlabelled"
    steps = len(training) + 4 * len(validation)
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        advance(done, steps)

    detector = FaceDetector()
    rule = fit_crop_rule(training, detected_boxes(training, detector, tick), size=size, margin=margin)

    def card(gain: float, scores: dict[str, float]) -> ModelCard:
        return ModelCard(
            name=config.name,
            layout=config.layout,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            width=network.config.width,
            crop=rule,
            spread_gain=gain,
            normaliser="inter-ocular",
            scores=scores,
            training_data=learned,
            terms=terms,
            recipe=config.model_dump(mode="json"),
            version=__version__,
        )

    beta = config.loss.beta
    draft = to_onnx(Predictor(network, beta, 1.0), card(1.0, {}), half=half)
    labelled, spread, truth, sides = measure(draft, validation, rule, None, tick)
    gain = fit_spread_gain(spread / sides[:, None, None], (labelled - truth) / sides[:, None, None])
    boxes = detected_boxes(validation, detector, tick)
    by_detector, *_ = measure(draft, validation, rule, boxes, tick)
    shaken, *_ = measure(draft, validation, rule, jittered(boxes, config.seed), tick)
    scores = _scores(labelled, by_detector, shaken, truth, one, boxes)
    final = card(gain, scores | {"validation NME of the last epoch, %": meta["rows"][-1]["validation_nme"] * 100})
    return Release(to_onnx(Predictor(network, beta, gain), final, half=half), final, _half_checkpoint(network, meta))


def _scores(
    labelled: NDArray[np.float64],
    by_detector: NDArray[np.float64],
    shaken: NDArray[np.float64],
    truth: NDArray[np.float64],
    one: Layout,
    boxes: Sequence[NDArray[np.float32] | None],
) -> dict[str, float]:
    errors = nme(labelled, truth, one)
    seen = np.array([box is not None for box in boxes])
    detected = nme(by_detector, truth, one)[seen]
    return {
        f"validation NME, %, label boxes, {len(errors)} faces": float(errors.mean() * 100),
        "failures at 8 %, %, label boxes": failure_rate(errors) * 100,
        f"validation NME, %, YuNet boxes, {int(seen.sum())} faces found": float(detected.mean() * 100),
        "failures at 8 %, %, YuNet boxes": failure_rate(detected) * 100,
        "validation NME, %, YuNet boxes moved and scaled by up to 10 %": float(
            nme(shaken, truth, one)[seen].mean() * 100
        ),
    }


def jittered(
    boxes: Sequence[NDArray[np.float32] | None], seed: int, share: float = 0.1
) -> list[NDArray[np.float32] | None]:
    """Boxes with centre and size changed by up to ``share`` of the size, each of the four numbers uniformly."""
    rng = np.random.default_rng(seed)
    out: list[NDArray[np.float32] | None] = []
    for box in boxes:
        if box is None:
            out.append(None)
            continue
        size = box[2:] - box[:2]
        centre = (box[:2] + box[2:]) / 2 + size * rng.uniform(-share, share, 2)
        half = size * rng.uniform(1 - share, 1 + share, 2) / 2
        out.append(np.concatenate([centre - half, centre + half]).astype(np.float32))
    return out


def measure(
    onnx: bytes,
    samples: Sequence[Sample],
    rule: CropRule,
    boxes: Sequence[NDArray[np.float32] | None] | None,
    tick: Callable[[], None] = lambda: None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Run an exported model over labelled faces, one by one, with boxes from a detector, or from labels for None.

    Returns:
        Landmarks, spreads and truth, (n, M, 2) in picture pixels, and the crops' sides (n,). A face whose box is
        None is read through its label's box; leave it out of scores.
    """
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    found, spreads, sides = [], [], []
    for index, sample in enumerate(samples):
        box = None if boxes is None else boxes[index]
        if box is None:
            square = squares(landmark_boxes(sample.landmarks), rule.margin)[0]
        else:
            square = detector_squares(box, rule.detector_scale, rule.detector_shift)[0]
        transform = crop_transform(square, rule.size)
        pixels = crop(read_picture(sample.picture), transform, rule.size)
        points, spread = session.run(["landmarks", "spread"], {"crops": pixels[None]})
        found.append(apply(transform, points[0]))
        spreads.append(spread[0] * (square[2] / rule.size))
        sides.append(square[2])
        tick()
    truth = np.stack([sample.landmarks for sample in samples]).astype(np.float64)
    return np.stack(found), np.stack(spreads).astype(np.float64), truth, np.array(sides)


def _half_checkpoint(network: OctaveNetwork, meta: dict[str, Any]) -> bytes:
    """The averaged weights as float16 with recipe and log, for fine-tuning and for exporting again."""
    state = network.state_dict().items()
    halves = {name: value.half() if value.is_floating_point() else value for name, value in state}
    return checkpoints.dump({"ema": halves}, meta)

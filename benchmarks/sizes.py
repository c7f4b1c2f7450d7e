"""Parameters, arithmetic and file size of every width of the network, and of the models that ship; their operators.

    python -m benchmarks.sizes [--before FOLDER] [--update]          (needs the package's extra, train)

The widths are exported untrained, which costs the same; the figures of the models that ship come from their cards,
which ``octamark export`` wrote. Operators and times are measured; ``--before`` adds those of other model files of the
same names and input, such as those of version 0.1.0: ``git worktree add 0.1.0 e8aa95e``, then the folder
``0.1.0/src/octamark/models/blobs``."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from benchmarks.measurements import Measurement, Value, add_update_option, finish
from benchmarks.timing import take_turns
from numpy.typing import NDArray

import octamark
from octamark import models
from octamark.layouts import layout
from octamark.models import Calibration, CropRule, ModelCard, RegionCard
from octamark.nets.network import WIDTHS, NetworkConfig, OctaveNetwork
from octamark.release.graph import to_onnx
from octamark.release.predictor import Predictor, flops

SIDE = 256

PLAIN: dict[str, dict[str, Any]] = {"pico": {"alpha": 0.0, "attention": False}}
"""The sizes whose networks are not of the usual shape."""


def untrained_onnx(name: str, network: OctaveNetwork, size: int = SIDE) -> bytes:
    """The model file of an untrained network, which costs what a trained one does, for an input of (size, size)."""
    rule = CropRule(size=size, margin=1.25, detector_scale=1.0, detector_shift=(0, 0), detector_residual=(0, 0, 0))
    card = ModelCard(
        name=name, layout="ibug68", parameters=parameter_count(network), width=network.config.width, crop=rule,
        calibration=Calibration.identity(network.config.landmarks), normaliser="", scores={}, training_data="",
        terms="", recipe={}, version=octamark.__version__,
    )  # fmt: skip
    return to_onnx(Predictor(network, 1.0, layout(card.layout), card.calibration), card)


def parameter_count(network: OctaveNetwork) -> int:
    """How many trainable numbers a network has."""
    return sum(parameter.numel() for parameter in network.parameters())


def widths() -> Measurement:
    """What each named width costs."""
    rows: list[list[Value]] = []
    for name, width in WIDTHS.items():
        network = OctaveNetwork(NetworkConfig(width=width, **PLAIN.get(name, {}))).eval()
        size = len(untrained_onnx(name, network)) / 1e6
        rows.append([name, width, parameter_count(network), flops(network, SIDE) / 1e9, size])
    return Measurement(
        name="sizes",
        page="speed",
        title="Widths of the network",
        text="input; the file stores weights as int4 and int8. The models that ship read 224x224, `tiny-128` and "
        "`pico` 128x128, at three and one quarters of this arithmetic. `medium` and `base` do not ship. `pico` has "
        "no octaves and no attention.",
        columns=(("size", ""), ("C", ""), ("parameters", ","), ("GFLOPs", ".2f"), ("file, MB", ".2f")),
        rows=[[name, str(width), *rest] for name, width, *rest in rows],
        command="python -m benchmarks.sizes",
    )


def region_card() -> RegionCard:
    """The card of the regional network that ships."""
    properties = onnx.load_from_string(models.read(models.REGIONS)).metadata_props
    text = next(entry.value for entry in properties if entry.key == models.METADATA_KEY)
    return models.parse_region_card(text, models.REGIONS)


def validated_on_w300(card: ModelCard) -> bool:
    """Whether a card's scores are of 300W's validation faces."""
    return "300w" in {section["format"] for section in card.recipe["data"]}


NME_LABELS, NME_YUNET = "validation NME, %, label boxes", "validation NME, %, YuNet boxes"


def cards() -> list[Measurement]:
    """What ``octamark export`` wrote into the cards of the models that ship."""
    scored = {name: octamark.load(name, refine="never").card for name in models.available()}
    rows: list[list[Value]] = []
    other_rows: list[list[Value]] = []
    for name, card in scored.items():
        size = f"{card.crop.size}x{card.crop.size}"
        figures = [
            figure(card.scores, start) for start in (NME_LABELS, "failures at 8 %, %, label boxes", NME_YUNET,
            "failures at 8 %, %, YuNet boxes", f"{NME_YUNET} moved", "validation NME of the last epoch")
        ]  # fmt: skip
        row = [f"`{name}`", card.parameters, size, len(models.read(name)) / 1e6, *figures]
        (rows if validated_on_w300(card) else other_rows).append(row)
    regions = region_card()
    figures = [figure(regions.scores, start) for start in (NME_LABELS, "failures at 8 %, %, label boxes", NME_YUNET,
               "failures at 8 %, %, YuNet boxes", "", "validation NME of the last epoch")]  # fmt: skip
    rows.append([
        f"`{models.REGIONS_MODEL}`, refined", f"+ {regions.parameters:,}",
        f"{len(layout(regions.layout).regions)} x {regions.rule.size}x{regions.rule.size}",
        f"+ {len(models.read(models.REGIONS)) / 1e6:.2f}", *figures,
    ])  # fmt: skip
    corrections: list[list[Value]] = [
        [
            f"`{name}`",
            figure(card.scores, "validation NME without the shape correction"),
            figure(card.scores, NME_LABELS),
        ]
        for name, card in scored.items()
        if validated_on_w300(card)
    ]
    columns = (
        ("model", ""), ("parameters", ","), ("input", ""), ("file, MB", ".2f"), ("NME, %, label boxes", ".2f"),
        ("failures at 8 %, %", ".1f"), ("NME, %, YuNet boxes", ".2f"), ("failures at 8 %, %", ".1f"),
        ("NME, %, moved boxes", ".2f"), ("NME, %, last epoch", ".2f"),
    )  # fmt: skip
    shared = {"data": "300W, validation split, 201 faces", "normaliser": "inter-ocular", "command": "octamark models"}
    return [
        Measurement(
            name="cards",
            page="accuracy",
            title="The models' cards",
            text="What `octamark export` measured and wrote into each file. The figures differ by up to 0.01 from "
            "those below, which are of the released file as `octamark evaluate` scores it. *Moved boxes*: "
            "centre and side of the crop around YuNet's box changed by up to 10 % of that side, each uniformly. "
            "*Last epoch*: before the export, without the shape correction and without the offset of 300W's "
            "labels ([training](training.md)).",
            columns=columns,
            rows=rows,
            boxes="as the columns say",
            **shared,
        ),
        Measurement(
            name="cards-open",
            page="accuracy",
            title="The cards of the models that learned from rendered heads",
            text="On held-out rendered heads, full profiles among them: other faces and another normaliser than above, "
            "so the figures of the two tables cannot be compared.",
            columns=columns,
            rows=other_rows,
            boxes="as the columns say",
            data="744 rendered heads that were held out",
            normaliser="box",
            command="octamark models",
        ),
        Measurement(
            name="shape-correction",
            page="training",
            title="What the shape correction brings",
            text="A linear correction of all points by the shape that they make; fitted at export, 18 KB and 0.1 ms, "
            "no training.",
            columns=(("model", ""), ("NME without, %", ".2f"), ("NME with, %", ".2f")),
            rows=corrections,
            boxes="labels",
            **shared,
        ),
    ]  # fmt: skip


def operators(before: Path | None, rounds: int = 40) -> Measurement:
    """How many operators the models that ship have, in the file and as ONNX Runtime runs them, and their times."""
    files = {name: {"now": models.read(name)} for name in models.available()}
    for name, versions in files.items():
        if before is not None and (before / f"{name}.onnx").is_file():
            versions["before"] = (before / f"{name}.onnx").read_bytes()
    tasks: dict[str, Callable[[int], object]] = {}
    counts: dict[str, tuple[int, int]] = {}
    for name, versions in files.items():
        for version, data in versions.items():
            network, counts[f"{name} {version}"] = loaded(data)
            crop = np.random.default_rng(0).integers(0, 256, (1, *network.get_inputs()[0].shape[1:]), dtype=np.uint8)

            def call(
                number: int, network: onnxruntime.InferenceSession = network, crop: NDArray[np.uint8] = crop
            ) -> object:
                return network.run(["landmarks", "spread", "confidence"], {"crops": crop})

            tasks[f"{name} {version}"] = call
    times = {name: float(np.percentile(values, 10)) for name, values in take_turns(tasks, rounds, 5, 2).items()}
    rows: list[list[Value]] = []
    for name in files:
        now, old = f"{name} now", f"{name} before"
        card = octamark.load(name, refine="never").card
        ratio = times[now] / times[old] if old in times else None
        rows.append(
            [
                f"`{name}`",
                card.arithmetic,
                *counts.get(old, (None, None)),
                *counts[now],
                times.get(old),
                times[now],
                ratio,
            ]
        )
    return Measurement(
        name="operators",
        page="speed",
        title="Operators of the models",
        text="The network alone on one thread, one crop, the 10th percentile of alternating turns; *before* is 0.1.0, "
        "in float32. *Run*: after ONNX Runtime has joined and folded what it can.",
        columns=(
            ("model", ""), ("arithmetic", ""), ("operators in the file, before", ","), ("run, before", ","),
            ("in the file", ","), ("run", ","), ("ms, before", ".2f"), ("ms", ".2f"), ("ratio", ".2f"),
        ),
        rows=rows,
        command="python -m benchmarks.sizes --before 0.1.0/src/octamark/models/blobs",
    )  # fmt: skip


def loaded(data: bytes) -> tuple[onnxruntime.InferenceSession, tuple[int, int]]:
    """A model file on one thread, and its numbers of operators: in the file, and after ONNX Runtime's optimisation."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        network = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        optimised = onnx.load(options.optimized_model_filepath)
    return network, (len(onnx.load_from_string(data).graph.node), len(optimised.graph.node))


def figure(scores: Mapping[str, float], start: str) -> float | None:
    """The score of a card whose name is ``start``, perhaps with the number of faces behind it."""
    names = [name for name in scores if start and (name == start or name.startswith((f"{start},", f"{start} ")))]
    names = [name for name in names if start.endswith("moved") or " moved" not in name]
    return scores[names[0]] if names else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="folder of earlier model files of the same names")
    add_update_option(parser)
    arguments = parser.parse_args()
    finish([widths(), *cards(), operators(arguments.before)], arguments.update)


if __name__ == "__main__":
    main()

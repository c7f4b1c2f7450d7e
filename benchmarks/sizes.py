"""Parameters, arithmetic and file size of every width of the network, and of the models that ship.

    python -m benchmarks.sizes [--update]          (needs the package's extra, train)

The widths are exported untrained, which costs the same; the figures of the models that ship come from their cards,
which ``octamark export`` wrote."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import onnx
from benchmarks.measurements import Measurement, Value, add_update_option, finish

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


NME_LABELS, NME_YUNET = "validation NME, %, label boxes", "validation NME, %, YuNet boxes"


def cards() -> list[Measurement]:
    """What ``octamark export`` wrote into the cards of the models that ship."""
    scored = {name: octamark.load(name, refine="never").card for name in models.available()}
    rows: list[list[Value]] = []
    for name, card in scored.items():
        size = f"{card.crop.size}x{card.crop.size}"
        figures = [
            figure(card.scores, start) for start in (NME_LABELS, "failures at 8 %, %, label boxes", NME_YUNET,
            "failures at 8 %, %, YuNet boxes", f"{NME_YUNET} moved", "validation NME of the last epoch")
        ]  # fmt: skip
        rows.append([f"`{name}`", card.parameters, size, len(models.read(name)) / 1e6, *figures])
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
    ]
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
            columns=(
                ("model", ""), ("parameters", ","), ("input", ""), ("file, MB", ".2f"), ("NME, %, label boxes", ".2f"),
                ("failures at 8 %, %", ".1f"), ("NME, %, YuNet boxes", ".2f"), ("failures at 8 %, %", ".1f"),
                ("NME, %, moved boxes", ".2f"), ("NME, %, last epoch", ".2f"),
            ),
            rows=rows,
            boxes="as the columns say",
            **shared,
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


def figure(scores: Mapping[str, float], start: str) -> float | None:
    """The score of a card whose name is ``start``, perhaps with the number of faces behind it."""
    names = [name for name in scores if start and (name == start or name.startswith((f"{start},", f"{start} ")))]
    names = [name for name in names if start.endswith("moved") or " moved" not in name]
    return scores[names[0]] if names else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_update_option(parser)
    arguments = parser.parse_args()
    finish([widths(), *cards()], arguments.update)


if __name__ == "__main__":
    main()

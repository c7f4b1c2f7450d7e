"""Plots of results, with matplotlib, as PNG bytes: the cumulative error curve, reliability, robustness."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from octamark import metrics, uncertainty
from octamark.evaluation.results import THRESHOLDS, About, Reliability, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _figure(columns: int, width: float = 5.2, height: float = 4.4) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, columns)).tolist()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def caption(about: About) -> str:
    """One line that says what a figure shows: set, split, boxes, normaliser."""
    return _literal(f"{about.set} {about.split}".strip() + f", {about.boxes}, normaliser {about.normaliser}")


def _literal(text: str) -> str:
    """Text that matplotlib draws as it is: without formulas, hidden labels or characters outside UTF-8."""
    plain = text.encode("utf-8", "backslashreplace").decode("utf-8").replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain


def ced(results: Sequence[Result]) -> bytes:
    """The cumulative error curves of results as step functions, with failure thresholds marked, as a PNG file."""
    figure, (axes,) = _figure(1, 7.0, 4.6)
    end = 100 * THRESHOLDS[-1]
    for result in results:
        errors = result.nme[result.scored]
        x, y = metrics.ced(errors)
        area = metrics.auc(errors, THRESHOLDS[0])
        x, y = (np.concatenate([[0.0], 100 * values[x <= THRESHOLDS[-1]]]) for values in (x, y))
        x, y = np.append(x, end), np.append(y, y[-1])
        axes.step(x, y, where="post", label=_literal(f"{result.about.model}: AUC at {THRESHOLDS[0]:.0%} {area:.4f}"))
    for threshold in THRESHOLDS:
        axes.axvline(100 * threshold, color="grey", linestyle=":", linewidth=0.8)
    axes.set(xlabel="NME, %", ylabel="share of faces at or below, %", xlim=(0, end), ylim=(0, 100))
    axes.set_title(f"{caption(results[0].about)}, {int(results[0].scored.sum())} faces", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return _png(figure)


def reliability_plot(reliability: Reliability, about: About) -> bytes:
    """Four checks of spread and confidence as a PNG file: reliability, coverage, error by spread, sparsification."""
    figure, (stated, regions, expected, sparse) = _figure(4, 4.2, 4.2)
    for axes in (stated, regions):
        axes.plot([0, 100], [0, 100], color="grey", linewidth=0.8)
        axes.set(xlim=(0, 100), ylim=(0, 100))
    if reliability.confidence is None or not len(reliability.confidence):
        stated.set_title("no confidence in the predictions", fontsize=9)
    else:
        x, y, counts = uncertainty.reliability_curve(reliability.confidence, reliability.hit)
        stated.bar(100 * x, 100 * counts / counts.sum(), width=6, color="lightgrey", label="share of the points")
        stated.plot(100 * x, 100 * y, "o-", label="observed share")
        stated.set_title(
            f"confidence, error {uncertainty.calibration_error(reliability.confidence, reliability.hit):.3f}",
            fontsize=9,
        )
        stated.legend(loc="upper left")
    stated.set(xlabel="confidence, %", ylabel="within 5 % of the inter-ocular distance, %")
    if reliability.covered:
        shares = sorted(reliability.covered)
        regions.plot([100 * s for s in shares], [100 * reliability.covered[s] for s in shares], "o-", markersize=3)
        regions.set_title("regions around the points", fontsize=9)
    else:
        regions.set_title("regions need a model's calibration", fontsize=9)
    regions.set(xlabel="nominal coverage, %", ylabel="observed coverage, %")
    _error_by_spread(expected, reliability)
    removed, by_spread, oracle = uncertainty.sparsification(reliability.errors, reliability.spread)
    sparse.plot(100 * removed, by_spread, label="by spread")
    sparse.plot(100 * removed, oracle, label="by the error itself")
    sparse.set(xlabel="worst points removed, %", ylabel="mean error of the rest over that of all", ylim=(0, 1.02))
    sparse.set_title(
        f"sparsification, area between {uncertainty.ause(reliability.errors, reliability.spread):.3f}", fontsize=9
    )
    sparse.legend()
    for axes in (stated, regions, expected, sparse):
        axes.grid(alpha=0.3)
    figure.suptitle(f"{_literal(about.model)}: {caption(about)}", fontsize=9)
    return _png(figure)


def _error_by_spread(axes: Axes, reliability: Reliability) -> None:
    """Mean and middle half of the error per axis over tenths of the points, by spread."""
    spread, away = 100 * reliability.axis_spread.ravel(), 100 * np.abs(reliability.signed).ravel()
    tenths = [part for part in np.array_split(np.argsort(spread), 10) if len(part)]
    x = [spread[part].mean() for part in tenths]
    axes.plot(x, [away[part].mean() for part in tenths], "o-", label="mean")
    low, high = ([np.quantile(away[part], q) for part in tenths] for q in (0.25, 0.75))
    axes.fill_between(x, low, high, alpha=0.2, label="middle half")
    axes.plot([0, x[-1]], [0, x[-1]], color="grey", linewidth=0.8)
    rank = uncertainty.spearman(reliability.spread, reliability.errors)
    axes.set(xlabel="spread, % of the normaliser", ylabel="absolute error per axis, %")
    axes.set_title(f"expected and observed error, Spearman {rank:.2f} per point", fontsize=9)
    axes.legend()


def robustness(curves: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], about: About) -> bytes:
    """NME over disturbances of the box, as a PNG file.

    Args:
        curves: axis label -> line label -> (x, NME in %).
    """
    figure, panels = _figure(len(curves), 5.0, 4.2)
    for axes, (label, lines) in zip(panels, curves.items(), strict=True):
        for name, (x, y) in lines.items():
            axes.plot(x, y, "o-", markersize=3, label=name)
        axes.set(xlabel=label, ylabel="NME, %", yscale="log")
        ticks = [tick for tick in (3, 3.5, 4, 5, 6, 8, 10, 15, 20, 30, 50, 100) if _inside(tick, lines)]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"{_literal(about.model)}: {caption(about)}", fontsize=9)
    return _png(figure)


def _inside(tick: float, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> bool:
    values = [value for _, y in lines.values() for value in y]
    return 0.8 * min(values) <= tick <= 1.25 * max(values)

"""Fits a conversion on rendered heads, as an entry for conversions.toml: python tools/fit_conversion.py.

Each point of the layout `--to` becomes a weighted mean of a few points of `--from`. The weights, which sum to 1, give
the least expected error on the rendered heads where the points to be averaged carry errors of their own; a further
point is taken while it lowers that by 2 %. Points at the same vertices are the same place and are taken as they are.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from octamark.layouts import Layout, layout
from octamark.layouts.definition import POINT_CORRELATION
from octamark.synthesis.rendering.folder import RenderFolder

F64 = NDArray[np.float64]

READING = 0.012
"""Standard deviation of a detector's error per axis, as a share of the root of the landmark box's area."""

MOST_POINTS, NEAREST, LEAST_GAIN = 5, 24, 0.02


@dataclass(frozen=True)
class Heads:
    """Rendered heads, in units of the root of the landmark box's area.

    Attributes:
        points: (n, M, 2) of the layout that is converted; wanted: (n, N, 2) of the other; visible: (n, N).
    """

    points: F64
    wanted: F64
    visible: NDArray[np.bool_]

    @classmethod
    def read(cls, path: Path, source: Layout, target: Layout, most: int | None) -> Heads:
        """The heads of a folder of rendered pictures, and their mirror images."""
        folder = RenderFolder(path)
        seeds = folder.finished()[:most]
        points = np.stack([found.landmarks for _, _, found in folder.landmarks(source, seeds)]).astype(np.float64)
        found = [found for _, _, found in folder.landmarks(target, seeds)]
        wanted = np.stack([one.landmarks for one in found]).astype(np.float64)
        visible = np.stack([one.visible for one in found])
        centre, scale = points.mean(axis=1, keepdims=True), source.distance(points, "box")[:, None, None]
        points, wanted = (points - centre) / scale, (wanted - centre) / scale
        return cls(
            np.concatenate([points, points[:, source.mirror] * [-1, 1]]),
            np.concatenate([wanted, wanted[:, target.mirror] * [-1, 1]]),
            np.concatenate([visible, visible[:, target.mirror]]),
        )


def weights_of(heads: Heads, index: int) -> dict[int, float]:
    """Point of the source -> weight, of one point that is wanted, where it can be seen."""
    seen = heads.visible[:, index]
    points, wanted = heads.points[seen], heads.wanted[seen, index]
    near = np.argsort(np.linalg.norm(points - wanted[:, None], axis=2).mean(axis=0))[:NEAREST]
    rows, values = points.transpose(0, 2, 1).reshape(-1, points.shape[1]), wanted.reshape(-1)
    chosen: list[int] = []
    best, error = np.ones(1), np.inf
    while len(chosen) < MOST_POINTS:
        tried = {int(point): _solve(rows, values, [*chosen, int(point)]) for point in near if point not in chosen}
        point = min(tried, key=lambda point: tried[point][1])
        if tried[point][1] > (1 - LEAST_GAIN) * error:
            break
        chosen.append(point)
        best, error = tried[point]
    rounded = dict(zip(chosen, best.round(2).tolist(), strict=True))
    largest = max(rounded, key=lambda point: abs(rounded[point]))
    rounded[largest] = round(rounded[largest] + 1 - sum(rounded.values()), 2)
    return {point: rounded[point] for point in sorted(rounded) if rounded[point]}


def _solve(rows: F64, values: F64, chosen: list[int]) -> tuple[F64, float]:
    """The best weights of some points, and the expected square error."""
    chosen_rows, count = rows[:, chosen], len(chosen)
    single = READING**2 * (1 - POINT_CORRELATION)
    system = np.zeros((count + 1, count + 1))
    system[:-1, :-1] = chosen_rows.T @ chosen_rows / len(rows) + single * np.eye(count)
    system[:-1, -1] = system[-1, :-1] = 1
    weights = np.linalg.solve(system, np.append(chosen_rows.T @ values / len(rows), 1))[:-1]
    fit = np.mean((chosen_rows @ weights - values) ** 2)
    return weights, float(fit + READING**2 * POINT_CORRELATION + single * weights @ weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rendered", type=Path, required=True, help="folder that octamark render wrote")
    parser.add_argument("--held-out", type=Path, required=True, help="another, on which `apart` is measured")
    parser.add_argument("--from", dest="source", default="ibug68")
    parser.add_argument("--to", dest="target", default="wflw98")
    parser.add_argument("--count", type=int, default=3000, help="pictures to fit on")
    options = parser.parse_args()
    source, target = layout(options.source), layout(options.target)
    heads = Heads.read(options.rendered, source, target, options.count)
    free = [index for index in range(target.count) if not any(index in chain[1:-1] for chain in target.spaced)]
    same = {index: source.places.index(target.places[index]) for index in free if target.places[index] in source.places}
    rows: list[dict[int, float]] = []
    for index, partner in enumerate(target.mirror.tolist()):
        if index in same:
            rows.append({same[index]: 1.0})
        elif partner < index:
            rows.append(dict(sorted((int(source.mirror[point]), weight) for point, weight in rows[partner].items())))
        else:
            rows.append(weights_of(heads, index))
        if partner == index:  # as the points of a plane of symmetry must be
            mirrored = {int(source.mirror[point]): weight for point, weight in rows[index].items()}
            both = {point: (rows[index].get(point, 0) + mirrored.get(point, 0)) / 2 for point in rows[index] | mirrored}
            rows[index] = {point: round(both[point], 3) for point in sorted(both)}
    matrix = np.zeros((target.count, source.count))
    for row, weights in zip(matrix, rows, strict=True):
        row[list(weights)] = list(weights.values())
    held_out = Heads.read(options.held_out, source, target, None)
    error = np.abs(matrix @ held_out.points - held_out.wanted).mean(axis=2)
    apart = 100 * np.nanmean(np.where(held_out.visible, error, np.nan), axis=0)
    apart[list(same)] = 0
    print(f'[[conversion]]\nfrom = "{source.name}"\nto = "{target.name}"\npoints = [')
    print(lines(written(rows)))
    print(f"]\nexact = [{', '.join(map(str, same))}]\napart = [")
    print(f"{lines(str(value) for value in apart.round(2))}\n]")


def lines(values: Iterable[str]) -> str:
    """The values of a list over lines of at most 120 characters."""
    whole = [value.replace(" ", "\0") for value in values]  # a value is not broken
    text = textwrap.fill(", ".join(whole) + ",", 120, initial_indent="  ", subsequent_indent="  ")
    return text.replace("\0", " ")


def written(rows: list[dict[int, float]]) -> Iterator[str]:
    """The entries of `points`; neighbours that are taken as they are become ranges."""
    single = [next(iter(weights)) if list(weights.values()) == [1] else -1 for weights in rows]
    index = 0
    while index < len(rows):
        end = index
        while single[index] >= 0 and end + 1 < len(rows) and single[end + 1] == single[end] + 1:
            end += 1
        if single[index] < 0:
            yield "{ " + ", ".join(f"{point} = {weight}" for point, weight in rows[index].items()) + " }"
        else:
            yield f"{single[index]}" if end == index else f'"{single[index]}-{single[end]}"'
        index = end + 1


if __name__ == "__main__":
    main()

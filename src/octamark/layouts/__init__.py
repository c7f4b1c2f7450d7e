"""Layouts: the landmarks of a convention, their names and parts, and conversions between conventions.

A layout is data, one .toml file each. Sides are the person's own: the right eye is on the left of the picture.
"""

from __future__ import annotations

import json
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path

from octamark.errors import LayoutError, listed
from octamark.layouts.chips import ChipTemplate, chip_template
from octamark.layouts.conversion import Conversion, conversion, convert
from octamark.layouts.definition import CONFIDENCE_SHARE, HeadPlace, Layout, Opening
from octamark.layouts.head import head_pose
from octamark.layouts.table import DRAWING_KEYS, dumps, parse, to_table

__all__ = [
    "BUILTIN",
    "CONFIDENCE_SHARE",
    "ChipTemplate",
    "Conversion",
    "HeadPlace",
    "Layout",
    "Opening",
    "chip_template",
    "conversion",
    "convert",
    "dumps",
    "head_pose",
    "layout",
    "loads",
    "parse",
]

BUILTIN = (
    "ibug68", "ibug51", "wflw98", "cofw29", "aflw19", "webcaricature17", "manga60", "frl189", "five", "dlib5",
)  # fmt: skip
"""Names of the layouts that come with the package."""


@cache
def _builtin(name: str) -> Layout:
    path = resources.files(__name__) / f"{name}.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise LayoutError(
            f"{path}: cannot be read ({error.strerror}); install octamark again, or where PyInstaller built the "
            "application, add --collect-data octamark"
        ) from error
    return parse(tomllib.loads(text), f"layouts/{name}.toml")


def layout(name: str | Path | Layout) -> Layout:
    """The layout of that name, or the one that a file describes (.toml, or .json as ``dumps`` writes it).

    Raises:
        LayoutError: unknown name (the message lists the names), a file that cannot be read, or has mistakes; see
            ``loads``.

    Examples:
        >>> layout("ibug68").part("left_eye")
        (42, 43, 44, 45, 46, 47)
    """
    if isinstance(name, Layout):
        return name
    if str(name) in BUILTIN:
        return _builtin(str(name))
    if not isinstance(name, str | Path):
        raise LayoutError(f"layout {name!r}; allowed: a name, the path of a .toml file, or a Layout")
    path = Path(name)
    if path.suffix not in (".toml", ".json"):
        raise LayoutError(f"unknown layout {str(name)!r}; known: {listed(BUILTIN)}, or the path of a .toml file")
    try:
        return loads(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise LayoutError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise LayoutError(f"{path}: not a TOML table ({error})") from error


def loads(text: str, source: str = "layout") -> Layout:
    """The layout that a text describes: TOML, or JSON as ``dumps`` writes it.

    Args:
        text: the content of a layout file (docs/layouts.md).
        source: where the text comes from, for the messages of errors.

    Returns:
        The layout. A text that carries the name of a layout of this package gives that layout itself.

    Raises:
        LayoutError: neither TOML nor JSON, a table with mistakes, or a table that has the name of a layout of this
            package but other points.

    Examples:
        >>> loads('name = "eyes"\\npoints = ["right_eye", "left_eye"]').mirror
        array([1, 0])
    """
    try:
        table = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LayoutError(f"{source}: not a TOML table ({error})") from error
    except (ValueError, RecursionError) as error:
        raise LayoutError(f"{source}: not a JSON object ({error})") from error
    parsed = parse(table, source)
    if parsed.name not in BUILTIN:
        return parsed
    builtin = _builtin(parsed.name)
    values, builtin_values = to_table(parsed), to_table(builtin)
    compared = set(table) - set(DRAWING_KEYS) - {"count"} | ({"points"} if "parts" in table else set())
    differing = ["count"] if parsed.count != builtin.count else []
    differing += sorted(key for key in compared if values.get(key) != builtin_values.get(key))
    if differing:
        raise LayoutError(
            f"{source}: {parsed.name} is a layout of this package with other values of {listed(differing)}; "
            "give yours another name"
        )
    return builtin

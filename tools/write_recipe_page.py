"""Write docs/reference/recipe.md: every setting of a training recipe, with its default and what it allows.

python tools/write_recipe_page.py
"""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from octamark.training.recipe import Recipe

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "recipe.md"
INTRODUCTION = """# Training recipes

A recipe is a `.toml` file. An unknown setting, or a value that is not allowed, is refused with a message that lists
what is. [Train a detector](../how-to/train.md) shows how to use it; `configs/` has the recipes of the released models.

This page is generated from `octamark.training.recipe` by `tools/write_recipe_page.py`.
"""
WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}
LIMITS = (
    (annotated_types.Ge, "ge", "at least"),
    (annotated_types.Gt, "gt", "above"),
    (annotated_types.Le, "le", "at most"),
    (annotated_types.Lt, "lt", "below"),
    (annotated_types.MultipleOf, "multiple_of", "a multiple of"),
)


def page() -> str:
    """The text of the page."""
    return INTRODUCTION + "\n" + "\n".join(section("", Recipe)) + "\n"


def section(name: str, model: type[BaseModel]) -> list[str]:
    """The lines of a heading and a table for one section of a recipe, and of those for the sections inside it."""
    text = (model.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ").replace("``", "`")
    lines = [f"## {name}" if name else "## At the top of the file", "", text, ""]
    lines += ["| setting | default | allowed | meaning |", "|---|---|---|---|"]
    inner: list[str] = []
    for key, field in model.model_fields.items():
        nested = [kind for kind in kinds(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if nested:
            inner += ["", *section(f"{name}.{key}" if name else key, nested[0])]
        else:
            lines.append(f"| `{key}` | {default(field)} | {allowed(field)} | {field.description or ''} |")
    return lines + inner


def kinds(annotation: Any) -> list[Any]:
    """The types in a union or tuple, or the one type, without None; a Literal stays as it is."""
    if typing.get_origin(annotation) is typing.Literal:
        return [annotation]
    arguments = typing.get_args(annotation)
    if not arguments:
        return [] if annotation in (type(None), ...) else [annotation]
    return [kind for argument in arguments for kind in kinds(argument)]


def default(field: FieldInfo) -> str:
    """The default as a recipe would have it; empty where the setting is left out."""
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value == "":
        return ""
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value!r}`".replace("'", '"')


def allowed(field: FieldInfo) -> str:
    """The values that a setting can have."""
    choices = [f"`{choice}`" for kind in kinds(field.annotation) for choice in typing.get_args(kind)]
    values = ", ".join(choices) or " or ".join(WORDS[kind] for kind in kinds(field.annotation))
    limits = [
        f"{words} {getattr(limit, attribute):.10g}"
        for limit in field.metadata
        for kind, attribute, words in LIMITS
        if isinstance(limit, kind)
    ]
    return ", ".join([values, *limits])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

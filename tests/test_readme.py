"""README.md: its length, and that its figures are those of docs/measurements/results.json."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from octamark import models

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def table() -> dict[str, list[str]]:
    """Model -> the cells of its row in the README's table."""
    rows = re.findall(r"^\| `([\w-]+)` \| (.*) \|$", README, re.MULTILINE)
    return {name: cells.split(" | ") for name, cells in rows}


def test_the_table_has_the_figures_of_the_measurements() -> None:
    results = json.loads((REPOSITORY / "docs" / "measurements" / "results.json").read_text(encoding="utf-8"))
    cards = {row[0].strip("`"): row for table in ("cards", "cards-open") for row in results[table]["rows"]}
    size = [title for title, _ in results["cards"]["columns"]].index("file, MB")
    nme = [title for title, _ in results["scores"]["columns"]].index("NME, %")
    scores = {row[0].strip("`"): row[nme][0] for row in results["scores"]["rows"] if row[1] == "detector"}
    ms = [title for title, _ in results["speed"]["columns"]].index("ms")
    times = {tuple(row[:2]): row[ms] for row in results["speed"]["rows"]}
    assert sorted(table()) == sorted(models.available())
    for name, (megabytes, whole_call, face, error, _, _) in table().items():
        assert megabytes == f"{cards[name][size]:.2f}"
        assert whole_call == f"{times['whole call', f'octamark {name}']:.1f}"
        assert face == f"{times['landmarks', f'octamark {name}']:.1f}"
        assert error == f"{scores[name]:.2f}"
    assert results["speed"]["processor"] in README


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 120


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "NOTICE.md"])
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", (REPOSITORY / page).read_text(encoding="utf-8")):
        assert target.startswith("https://") or (REPOSITORY / target).exists(), f"{page}: {target}"


def test_it_names_the_two_commands_of_a_fresh_clone() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert f"make {target}" in README
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)

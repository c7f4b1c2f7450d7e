"""The results file, the pages from it, and the scripts that measure."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
SCRIPTS = sorted(
    f"{folder}.{path.stem}"
    for folder in ("benchmarks", "research")
    for path in (REPOSITORY / folder).glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8")
)

sys.path.insert(0, str(REPOSITORY))  # the scripts are run from the root of the clone, and are not installed

from benchmarks.measurements import RESULTS, Measurement, finish, load, save, text  # noqa: E402
from benchmarks.report import OTHERS, pages  # noqa: E402


def test_pages_are_those_of_the_results_file() -> None:
    folder = RESULTS.parent
    written = pages(load())
    for name, page in written.items():
        assert (folder / name).read_text(encoding="utf-8") == page, f"{name}: run python -m benchmarks.report"
    assert {path.name for path in folder.glob("*.md")} == {*written, *(f"{name}.md" for name in OTHERS)}


def test_links_and_pictures_of_the_pages_exist() -> None:
    for page in RESULTS.parent.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).is_file(), f"{page.name}: {link}"


def test_pictures_belong_to_a_page() -> None:
    content = "".join(page.read_text(encoding="utf-8") for page in RESULTS.parent.glob("*.md"))
    assert not [path.name for path in RESULTS.parent.glob("*.png") if f"({path.name})" not in content]


def test_the_results_file_is_as_it_would_be_written(tmp_path: Path) -> None:
    save(load(), tmp_path / "results.json")
    assert (tmp_path / "results.json").read_bytes() == RESULTS.read_bytes()


def test_every_entry_says_what_it_was_measured_on() -> None:
    for name, entry in load().items():
        assert entry.date, name
        assert entry.commit, name
        if any("NME" in title for title, _ in entry.columns):
            assert entry.data, name
            assert entry.normaliser, name
            assert entry.boxes, name
        if any(re.match(r"ms\b", title) for title, _ in entry.columns) and not entry.older:
            assert entry.processor or "ntrained" in entry.text, name


def test_cells() -> None:
    assert text(3.0666, ".2f") == "3.07"
    assert text([3.07, 2.92, 3.234], ".2f") == "3.07 (2.92 to 3.23)"
    assert text(99212, ",") == "99,212"
    assert (text(None, ".2f"), text("native", ".2f")) == ("", "native")
    with pytest.raises(ValueError, match="2 cells, there are 1 columns"):
        Measurement(name="x", page="speed", title="", columns=(("a", ""),), rows=(("b", "c"),))


def test_an_update_replaces_the_entry_of_its_name_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    columns = (("model", ""), ("ms", ".2f"))
    first = Measurement(name="first", page="speed", title="One", columns=columns, rows=(("`nano`", 1.0),))
    other = Measurement(name="other", page="speed", title="Two", columns=columns, rows=(("`tiny`", 2.0),))
    save({"first": first, "other": other}, path)
    finish([dataclasses.replace(first, rows=(("`nano`", 3.5),))], update=False, path=path)
    assert load(path)["first"].rows == [["`nano`", 1.0]]
    finish([dataclasses.replace(first, rows=(("`nano`", 3.5),))], update=True, path=path)
    entries = load(path)
    assert entries["first"].rows == [["`nano`", 3.5]]
    assert entries["first"].date
    assert entries["other"].rows == [["`tiny`", 2.0]]
    assert list(json.loads(path.read_text())) == ["first", "other"]
    assert "| `nano` | 3.50 |" in (tmp_path / "speed.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_prints_its_help(script: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", script, "--help"], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert f"python -m {script}" in run.stdout

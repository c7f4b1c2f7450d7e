"""Write the pages of docs/measurements, and the figures of README.md's table, from results.json.

python -m benchmarks.report
python -m benchmarks.report --check     # write nothing; exit 1 if a file is not what results.json gives
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.measurements import DOCS, ROOT, Measurement, load
from benchmarks.speed_calls import LANDMARKS, WHOLE

from octamark.images import write_atomically

PAGES = {
    "accuracy": "Accuracy of the released models",
    "robustness": "Inaccurate boxes and leaning faces",
    "detection": "Finding faces",
    "speed": "Speed and size",
    "video": "Faces in video",
    "service": "The REST service",
    "scale": "A million pictures",
    "peers": "Beside other detectors",
    "resolution": "From 256 pixels to 4K",
    "caricatures": "Caricatures, cartoons, paintings",
    "adaptation": "Adapting to pictures without labels",
    "training": "How the released models were trained",
}
"""Page -> title, in the order of the index."""

OTHERS = {
    "experiments": (
        "Controlled comparisons",
        "96 training runs: optimiser, few labels, loss, width, octaves and attention, caricatures, faces in little "
        "light",
    ),
    "how": ("How octamark measures", "`octamark evaluate`, sets, boxes, NME, failures, AUC, spread and confidence"),
}
"""Pages that this script does not write -> title and content."""

MARK = (
    "<!-- written by python -m benchmarks.report from results.json; edit neither the page nor its figures by hand -->"
)


def pages(measurements: Mapping[str, Measurement]) -> dict[str, str]:
    """The text of every page by file name."""
    unknown = {one.page for one in measurements.values()} - PAGES.keys()
    if unknown:
        raise ValueError(f"results.json names pages that do not exist: {', '.join(sorted(unknown))}")
    texts = {"index.md": _index(measurements)}
    for page, title in _measured(measurements).items():
        parts = [_section(one) for one in measurements.values() if one.page == page]
        texts[f"{page}.md"] = f"{MARK}\n\n# {title}\n\n" + "\n\n".join(parts) + "\n"
    return texts


def _measured(measurements: Mapping[str, Measurement]) -> dict[str, str]:
    """The pages of which something was measured."""
    shown = {one.page for one in measurements.values()}
    return {page: title for page, title in PAGES.items() if page in shown}


def _index(measurements: Mapping[str, Measurement]) -> str:
    lines = [
        MARK, "", "# Measurements", "",
        "Every figure that octamark's documentation shows stands on these pages, with the command that measured it. "
        "[How octamark",
        "measures](how.md) defines the terms. Tables with the mark *older weights* were not measured with the files "
        "that ship now.",
        "", "| page | tables | older weights |", "|---|---|---|",
    ]  # fmt: skip
    for page, title in _measured(measurements).items():
        shown = [one for one in measurements.values() if one.page == page]
        older = sum(bool(one.older) for one in shown)
        lines.append(f"| [{title}]({page}.md) | {'; '.join(one.title for one in shown)} | {older or ''} |")
    lines += [f"| [{title}]({page}.md) | {text} | |" for page, (title, text) in OTHERS.items()]
    return "\n".join(lines) + "\n"


def _section(measurement: Measurement) -> str:
    one = measurement
    parts = [f"## {one.title}"]
    if one.older:
        parts.append(f"**Older weights:** {one.older}.")
    if one.text:
        parts.append(one.text.strip())
    conditions = {
        "data": one.data,
        "boxes": one.boxes,
        "normaliser": one.normaliser,
        "processor": one.processor,
        "measured": ", ".join(filter(None, (one.date, f"version {one.commit}" if one.commit else ""))),
        "command": f"`{one.command}`" if one.command else "",
    }
    parts.append("\n".join(f"- {name}: {value}" for name, value in conditions.items() if value))
    if one.rows:
        head = [title for title, _ in one.columns]
        lines = [head, ["---:" if form else "---" for _, form in one.columns], *one.cells()]
        parts.append("\n".join("| " + " | ".join(cells) + " |" for cells in lines))
    if one.plot:
        parts.append(f"![{one.title}]({one.plot})")
    return "\n\n".join(part for part in parts if part)


README = ROOT / "README.md"


def readme_figures(measurements: Mapping[str, Measurement]) -> dict[str, list[str]]:
    """Model -> the figures in its row of the README: MB, ms of a whole call, ms of the landmarks alone, NME in percent.

    Only models are listed whose speed was measured.
    """
    titles = {name: [title for title, _ in measurements[name].columns] for name in ("cards", "speed", "scores")}
    ms, size, nme = (titles[name].index(title) for name, title in
                     (("speed", "ms"), ("cards", "file, MB"), ("scores", "NME, %")))  # fmt: skip
    times = {(row[0], row[1]): format(row[ms], ".1f") for row in measurements["speed"].rows}
    scores = {row[0]: row[nme] for row in measurements["scores"].rows if row[1] == "detector"}
    figures = {}
    cards = [measurements[name] for name in ("cards", "cards-open") if name in measurements]
    for row, cells in (pair for table in cards for pair in zip(table.rows, table.cells(), strict=True)):
        name = str(row[0]).strip("`")
        calls = [(group, f"octamark {name}") for group in (WHOLE, LANDMARKS)]
        if all(call in times for call in calls):
            value = scores[row[0]]
            assert isinstance(value, Sequence)
            figures[name] = [cells[size], *(times[call] for call in calls), f"{float(value[0]):.2f}"]
    return figures


def readme(text: str, measurements: Mapping[str, Measurement]) -> str:
    """The README with these figures in its table of models, whose rows and last two columns are written by hand."""
    for name, figures in readme_figures(measurements).items():
        row = re.compile(rf"^\| `{re.escape(name)}` \| .* \| (?P<advice>[^|]* \| [^|]*) \|$", re.MULTILINE)
        text = row.sub(rf"| `{name}` | {' | '.join(figures)} | \g<advice> |", text)
    return text


def files(measurements: Mapping[str, Measurement], folder: Path = DOCS) -> dict[Path, str]:
    """Path and text of every file that shows measurements: the pages; beside those of docs/measurements the README."""
    texts = {folder / name: text for name, text in pages(measurements).items()}
    if folder == DOCS:
        texts[README] = readme(README.read_text(encoding="utf-8"), measurements)
    return texts


def write_files(measurements: Mapping[str, Measurement], folder: Path = DOCS) -> None:
    """Write all pages into a folder; with docs/measurements also the README."""
    for path, text in files(measurements, folder).items():
        write_atomically(path, text.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    arguments = parser.parse_args()
    if not arguments.check:
        write_files(load())
        return
    for path, text in files(load()).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            raise SystemExit(f"{path}: out of date; run python -m benchmarks.report")


if __name__ == "__main__":
    main()

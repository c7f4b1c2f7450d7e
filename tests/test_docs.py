"""The documentation: code blocks run and print what the page shows, commands exist, the reference is complete."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import griffe
import pytest
from typer.testing import CliRunner

from octamark.cli import app
from octamark.cli.train import _PACKAGES
from octamark.errors import install_hint
from test_architecture import ROOMS

REPOSITORY = Path(__file__).parent.parent
DOCS = REPOSITORY / "docs"
CODE_PAGES = [REPOSITORY / "README.md", DOCS / "index.md", *DOCS.glob("tutorials/*.md"), *DOCS.glob("how-to/*.md")]
COMMAND_PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *(path for path in sorted(DOCS.rglob("*.md")) if path.stem != "command_line"),  # that page is generated
]

_BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_OPTION = re.compile(r"--?[a-z][a-z-]*")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def page_name(path: Path) -> str:
    """The path of a page in the repository."""
    return path.relative_to(REPOSITORY).as_posix()


def code_blocks(text: str) -> list[tuple[str, str | None]]:
    """(code, output) of each Python block of a page; the output is that of a text block right after it, or None."""
    blocks = list(_BLOCK.finditer(text))
    pairs = []
    for number, block in enumerate(blocks):
        if block[1] == "python":
            shown = [after[2] for after in blocks[number + 1 : number + 2] if after[1] == "text"]
            near = shown and not text[block.end() : blocks[number + 1].start()].strip()
            pairs.append((block[2], shown[0] if near else None))
    return pairs


def same_output(printed: str, shown: str) -> bool:
    """Whether two texts are equal but for numbers that differ by one unit of the last digit shown."""
    printed, shown = printed.strip(), shown.strip()
    if _NUMBER.sub("#", printed) != _NUMBER.sub("#", shown):
        return False
    pairs = zip(_NUMBER.findall(printed), _NUMBER.findall(shown), strict=True)
    return all(abs(float(first) - float(second)) <= 1.001 * _last_digit(second) for first, second in pairs)


def _last_digit(number: str) -> float:
    """The unit of a decimal number's last digit; 0 for a whole number, which is a count."""
    mantissa, _, exponent = number.partition("e")
    decimals = len(mantissa.partition(".")[2])
    return 10.0 ** (int(exponent or 0) - decimals) if decimals else 0.0


def commands(text: str) -> list[str]:
    """The ``octamark ...`` command lines in the code blocks of a page, continued lines joined."""
    fenced = "\n".join(
        block[2] for block in _BLOCK.finditer(text) if block[1] in ("", "bash", "console", "sh", "shell")
    )
    indented = "\n".join(re.findall(r"^ {4}(.*)$", _BLOCK.sub("", text), re.MULTILINE))
    joined = re.sub(r"\s*\\\n\s*", " ", f"{fenced}\n{indented}")
    return re.findall(r"^(?:\$ )?(?:\.venv/bin/)?(octamark [^\n]+)$", joined, re.MULTILINE)


@pytest.mark.parametrize("page", CODE_PAGES, ids=page_name)
def test_code_blocks_run_and_print_what_the_page_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("portrait.jpg", "docs/portrait.jpg"):
        shutil.copy(DOCS / "portrait.jpg", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for code, shown in code_blocks(page.read_text(encoding="utf-8")):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page_name(page), "exec"), names)  # noqa: S102
        assert shown is None or same_output(printed.getvalue(), shown), f"printed:\n{printed.getvalue()}shown:\n{shown}"


def test_outputs_may_differ_in_the_last_digit_alone() -> None:
    assert same_output("face at 163.9, score 0.94\n", "face at 164.0, score 0.93")
    assert not same_output("face at 163.9", "face at 164.1")
    assert not same_output("2 faces", "3 faces")
    assert not same_output("1 face", "1 Face")


def test_a_page_gives_its_blocks_and_outputs() -> None:
    text = "```python\na\n```\n\n```text\nb\n```\nwords\n```python\nc\n```\nwords\n```text\nd\n```\n"
    assert code_blocks(text) == [("a\n", "b\n"), ("c\n", None)]


@cache
def options(*verb: str) -> set[str]:
    """The options that the help of a verb names; no verb: those of ``octamark`` itself."""
    result = CliRunner().invoke(app, [*verb, "--help"])
    assert result.exit_code == 0, f"octamark has no verb {verb[0]!r}"
    return set(_OPTION.findall(result.output))


@pytest.mark.parametrize("page", COMMAND_PAGES, ids=page_name)
def test_commands_have_verbs_and_options_that_exist(page: Path) -> None:
    for line in commands(page.read_text(encoding="utf-8")):
        words = shlex.split(re.split(r" (?:\||>|&&) ", line)[0], comments=True)[1:]
        verb = [] if words[0].startswith("-") else words[:1]
        used = {word.split("=")[0] for word in words if _OPTION.fullmatch(word.split("=")[0])}
        assert used <= options(*verb), f"{line}: no option {used - options(*verb)}"


def test_commands_are_found_on_a_page() -> None:
    text = (
        "octamark finds\n\n    octamark predict a.jpg \\\n        --overlay\n\n"
        "```console\n$ octamark models\n```\nrun `octamark train`\n```text\noctamark 0.1\n```\n"
    )
    assert sorted(commands(text)) == ["octamark models", "octamark predict a.jpg --overlay"]


def test_every_room_has_a_page_of_reference() -> None:
    pages = {path.stem for path in (DOCS / "reference").glob("*.md")} - {"index", "command_line", "recipe"}
    assert pages == set(ROOMS) - {"_version", "cli"}
    navigation = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    for page in pages:
        assert f"reference/{page}.md" in navigation
        assert f"]({page}.md)" in (DOCS / "reference" / "index.md").read_text(encoding="utf-8")


def test_docstrings_name_parameters_that_exist() -> None:
    package = griffe.load("octamark", search_paths=[REPOSITORY / "src"], docstring_parser="google")
    options = {"warn_missing_types": False, "warn_unknown_params": False}
    wrong, checked = [], 0
    for thing in documented(package):
        assert thing.docstring is not None
        assert "\nExample:\n" not in thing.docstring.value, f"{thing.path}: mkdocstrings knows the section as Examples:"
        for section in thing.docstring.parse("google", **options):
            if section.kind is not griffe.DocstringSectionKind.parameters:
                continue
            names = {name.strip("*") for entry in section.value for name in entry.name.split(", ")}
            allowed = {parameter.name for parameter in thing.parameters}
            checked += len(names)
            wrong += [f"{thing.path}: {name}" for name in sorted(names - allowed)]
    assert checked > 100
    assert not wrong


def documented(thing: Any) -> list[Any]:
    """The functions and classes with a docstring in a module, class or package."""
    found = []
    for member in thing.members.values():
        if not member.is_alias and (member.is_module or member.is_class or member.is_function):
            found += documented(member) if not member.is_function else []
            found += [member] if member.docstring and not member.is_module else []
    return found


def test_hints_name_packages_and_never_octamark() -> None:
    assert install_hint(["torch", "onnx"]) == "pip install torch onnx"
    for path in sorted((REPOSITORY / "src").rglob("*.py")):
        commands_of_pip = re.findall(r"pip install (\S+)", path.read_text(encoding="utf-8"))
        assert not [name for name in commands_of_pip if "octamark" in name], f"{path}: octamark is on no package index"


def test_packages_of_hints_are_in_the_extras() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {
        extra: {re.split(r"[\[>=<]", name)[0] for name in names}
        for extra, names in project["optional-dependencies"].items()
    }
    assert {"h5py", "matplotlib", "scipy"} == extras["evaluate"]
    assert {name.replace("_", "-") for name in _PACKAGES} <= extras["train"] | extras["evaluate"]

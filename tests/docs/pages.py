"""The documentation's pages as programs.

A page becomes one script with its blocks at the line numbers they have in the page, so a traceback points there. Fences:

    ```python                      run, in order, in one namespace
    ```python title="a/b.py"       a file of the reader's project, written before the script starts
    ```text title="output"         lines that the blocks so far have printed, in this order
    ```yaml title="a.yml"          the same
    ```bash                        commands: checked to exist
    ```text                        a drawing
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FENCE = re.compile(
    r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is the first line of its body, counted from 1."""

    language: str
    title: str | None
    body: str
    line: int


def pages() -> list[Path]:
    """README.md and every page under docs/."""
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """The page's blocks in order. An unknown kind is an error: no block is left out silently."""
    text = page.read_text()
    found = list(FENCE.finditer(text))
    if 2 * len(found) != len(re.findall(r"^ *```", text, re.MULTILINE)):
        raise AssertionError(f"{page.name} has a fence that this reader does not understand")
    for match in found:
        language, title = match["language"], match["title"]
        known = language in ("python", "text") or language == ("bash" if title is None else "yaml")
        assert known, f"{page.name}: a block of kind {language!r}, title {title!r}"
        yield Block(language, title, match["body"], text.count("\n", 0, match.start("body")) + 1)


def script(page: Path) -> str:
    """The page's python blocks, each at its line."""
    lines: list[str] = []
    for block in blocks(page):
        if block.language == "python" and block.title is None:
            lines += [""] * (block.line - 1 - len(lines))
            lines += block.body.splitlines()
    return "\n".join(lines) + "\n"


def files(page: Path) -> dict[str, str]:
    """The files of the reader's project: path -> content."""
    return {block.title: block.body for block in blocks(page) if block.language in ("python", "yaml") and block.title}


def outputs(page: Path) -> list[str]:
    """The lines that the page says are printed, in order."""
    found = [block for block in blocks(page) if block.language == "text" and block.title == "output"]
    return [line for block in found for line in block.body.splitlines()]


def commands(page: Path) -> list[str]:
    """The lines of the page's bash blocks."""
    return [line for block in blocks(page) if block.language == "bash" for line in block.body.splitlines() if line]

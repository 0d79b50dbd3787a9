"""Requirements files that a line names by URL: brought here, so that all of what they say counts, hashes too."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin

from runkit.client import line_options
from runkit.model.package import is_path
from runkit.model.requirements import logical_lines
from runkit.model.urls import expanded, without_credentials

_NAMED = re.compile(r"(?P<option>-r|-c|--requirement|--constraint)(?:\s*=\s*|\s+|(?<=^-[rc]))(?P<file>\S+)")


class RemoteLines:
    """Fetches the files that lines name, and those that these name.

    Args:
        folder: where they are written; nobody else can read it.
        read: gives the text behind a URL, with the user's login.
    """

    def __init__(self, folder: Path, read: Callable[[str], str]) -> None:
        self._folder = folder
        self._read = read
        self._files: dict[tuple[str, bool], Path] = {}
        self.lines: list[str] = []
        self.options: list[str] = []

    def local(self, line: str, base: str = "") -> str:
        """The line, with the path of a fetched file in place of its URL; other lines as they are.

        Args:
            line: of a requirements file.
            base: that file's own URL, which relative names start from; "" for lines of this machine.
        """
        named = _NAMED.fullmatch(line)
        if not named:
            # A path there is beside that file, not on this machine.
            return urljoin(base, line) if base and line and is_path(line) else line
        url = urljoin(base, expanded(named["file"]))
        if not url.startswith(("http://", "https://")):
            return line
        key = url, named["option"] in ("-c", "--constraint")
        if key not in self._files:
            path = self._files[key] = self._folder / f"remote-{len(self._files)}.txt"
            found = [text for _, text in logical_lines(self._read(url))]
            self.lines += [text for text in found if not _NAMED.fullmatch(text)]
            left, stated = line_options.without_options(found)
            self.options += stated
            path.touch(0o600)
            path.write_text("\n".join(self.local(text, url) for text in left) + "\n", encoding="utf-8")
        return f"{named['option']} {self._files[key]}"

    def in_words(self, said: str) -> str:
        """The text with URLs in place of the files' paths here."""
        for (url, _), path in self._files.items():
            said = said.replace(str(path), without_credentials(url))
        return said

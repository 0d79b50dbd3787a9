"""What direct_url.json says (PEP 610): where a distribution came from, without credentials."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from runkit.client.scan.model import Source
from runkit.model.urls import without_secrets

_VARIABLES = r"\$\{[A-Za-z0-9-_]+\}(:\$\{[A-Za-z0-9-_]+\})?"  # PEP 610 lets references to variables stay
_CACHES = ("/pypoetry/artifacts/", "/pypoetry/cache/artifacts/")  # poetry before 1.2 noted where its download lay


def without_credentials(url: str) -> str:
    """The URL without password and tokens, and without the user where that may be one."""
    login = re.match(rf"[\w+.-]+://({_VARIABLES}@)", url)
    if login is None:
        return without_secrets(url)
    return url[: login.end()] + without_secrets(url[: login.start(1)] + url[login.end() :])[login.start(1) :]


def folder(found: Mapping[str, Any] | None) -> str | None:
    """The local folder or file it names, with links resolved; None for something elsewhere."""
    if not found or not found["url"].lower().startswith("file:"):
        return None
    path = unquote(urlsplit(found["url"]).path)
    inside = found.get("subdirectory")
    if isinstance(inside, str) and isinstance(found.get("dir_info"), Mapping):
        path = os.path.join(path, inside)
    return os.path.realpath(path)


def source_of(found: Mapping[str, Any] | None) -> Source:
    """What kind of source it names."""
    if not found:
        return "index"
    if isinstance(found.get("vcs_info"), Mapping):
        return "vcs"
    about = found.get("dir_info")
    if isinstance(about, Mapping):
        return "editable" if about.get("editable") is True else "directory"
    if isinstance(found.get("archive_info"), Mapping):
        return "index" if any(part in found["url"] for part in _CACHES) else "archive"
    return "index"

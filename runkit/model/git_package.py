"""A package that lives in a git repository."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from runkit.errors import UsageError
from runkit.model.mistakes import plainly
from runkit.model.secret import InUrl, Secret

METHODS = ("pip", "local", "reqs")
_SCHEMES = ("https", "http", "ssh", "git", "file")
_SCP = re.compile(r"(?:[\w.-]+@)?[\w.-]+:(?!//)[^\s]+")
_SHORT = re.compile(r"[\w-]+/[\w.-]+")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_TOKEN = re.compile(r"(gh[a-z]_|github_pat_|glpat-|gldt-|ATBB|ATCTT)\w|[0-9a-f]{40}", re.ASCII)
"""How the tokens of well-known git servers begin: as a user name in a URL they are a password."""

_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_LOGIN = re.compile(
    r"(?P<scheme>https?://)(?:(?P<user>[^:@/\s]+):\$\{(?P<token>[A-Z0-9_]+)\}|\$\{(?P<alone>[A-Z0-9_]+)\}(?::x-oauth-basic)?)@"
)
"""A URL whose password is an environment variable, or whose only part of a login is one."""
_LINE = re.compile(
    r"""(?:(?P<name>[A-Za-z0-9][\w.-]*)\s*(?:\[(?P<extras>[^\]]*)\])?\s*@\s*)?git\+(?P<url>\S+?)(?:\s+;\s*(?P<marker>.+)|\s*)""",
    re.DOTALL,
)


@dataclass(frozen=True)
class GitPackage:
    """A package from a git repository, by branch, tag or commit.

    All git work happens on this machine; a host gets what comes of it, and needs neither git nor a login.

    Args:
        git_url: https://, http://, ssh:// or file:// URL, `git@host:owner/repo`, the path of a repository of this machine ("./x",
            "~/x", "/x"), or "owner/repo" for GitHub. A user name in it is fine, a password is not.
        revision: branch, tag or commit (also shortened); the repository's default branch when not given. What counts is the
            commit it stands for when the env is sent.
        install_method: "pip" installs the built distribution; "local" syncs the checkout, as a local folder is, and installs its
            requirements; "reqs" installs its requirements alone.
        username: who the token belongs to, where the server wants to know.
        token: a `rk.Secret` with the token or password for an http(s) URL. Without, git's own credential helpers are asked.
        subdirectory: the folder in the repository that holds the package.
        extras: extras to install with it.
        package_name: the distribution's name; read from the checkout when not given.
        marker: an environment marker (PEP 508), without the semicolon.

    Raises:
        UsageError: a part is malformed, or the URL holds a password.

    Example:
        >>> GitPackage("huggingface/diffusers", revision="v0.11.1")
        GitPackage('https://github.com/huggingface/diffusers.git', revision='v0.11.1')
    """

    git_url: str
    revision: str | None = None
    install_method: str = "pip"
    username: str | None = None
    token: Secret | None = None
    subdirectory: str = ""
    extras: tuple[str, ...] = ()
    package_name: str | None = None
    marker: str = ""

    @plainly
    def __post_init__(self) -> None:
        if self.token is not None and not isinstance(self.token, Secret):
            raise UsageError(
                "token= is a rk.Secret(name, env=... or path=... or value=...), so that no code holds the token itself"
            )
        url, user = _checked_url(self.git_url)
        if self.username is not None and (
            not isinstance(self.username, str) or not self.username or "\n" in self.username
        ):
            raise UsageError(f"username= is a name, not {type(self.username).__name__}")
        if self.username and user and self.username != user:
            raise UsageError(f"git_url= names the user {user!r}, and username= another one")
        scheme = url.partition("://")[0] if "://" in url else ""
        if self.token is not None and scheme not in ("https", "http"):
            raise UsageError(f"{url}: a token is for https:// URLs; over SSH your keys and agent count")
        if self.install_method not in METHODS:
            raise UsageError(f"install_method is one of {', '.join(map(repr, METHODS))}, not {self.install_method!r}")
        if self.revision is not None and not _fit_revision(self.revision):
            raise UsageError(f"revision={self.revision!r} is no branch, tag or commit")
        subdirectory = str(self.subdirectory or "").strip("/")
        if Path(subdirectory).is_absolute() or ".." in Path(subdirectory).parts:
            raise UsageError(f"subdirectory={self.subdirectory!r} leads out of the repository")
        if self.package_name is not None and not (
            isinstance(self.package_name, str) and _NAME.fullmatch(self.package_name)
        ):
            raise UsageError(f"package_name={self.package_name!r} is no name of a distribution")
        if self.marker and self.install_method != "pip":
            raise UsageError('a marker is for install_method="pip"')
        object.__setattr__(self, "git_url", url)
        object.__setattr__(self, "username", self.username or user)
        object.__setattr__(self, "subdirectory", "" if subdirectory == "." else subdirectory)
        object.__setattr__(self, "extras", _checked_extras(self.extras))

    @classmethod
    @plainly
    def from_string(cls, text: str, base: str | Path | None = None) -> GitPackage:
        """Read a requirement line: "git+https://host/x.git@rev#egg=name&subdirectory=sub", or "name[extra] @ git+https://... ; marker".

        Environment variables in it count as pip and uv have it (`${NAME}`); one in the place of a password becomes the `token`.

        Args:
            text: the line; "git@host:owner/repo" is taken too.
            base: the folder that a relative path starts from; the current one when not given.

        Raises:
            UsageError: it is malformed, or holds a password.
        """
        line = text.strip()
        if not line.startswith("git+") and _SCP.fullmatch(line):
            url, revision = _split_revision(line)
            return cls(url, revision)
        found = _LINE.fullmatch(line)
        if found is None:
            raise UsageError(
                "a package from git is written 'git+https://host/owner/repo@revision', or 'name @ git+https://...'"
            )
        url, user, token = _variables(found["url"])
        url, _, fragment = url.partition("#")
        options = dict(part.partition("=")[::2] for part in fragment.split("&") if part)
        egg = re.fullmatch(r"([^\[\]]*)(?:\[([^\]]*)\])?", unquote(options.get("egg", "")))
        url, revision = _split_revision(url)
        if base is not None and url.startswith("."):
            url = str(Path(base) / url)
        extras = found["extras"] or (egg[2] if egg else "") or ""
        return cls(
            url,
            revision=revision,
            username=user,
            token=token,
            subdirectory=unquote(options.get("subdirectory", "")),
            extras=tuple(part.strip() for part in extras.split(",") if part.strip()),
            package_name=found["name"] or (egg[1] if egg else "") or None,
            marker=(found["marker"] or "").strip(),
        )

    @property
    def is_exact(self) -> bool:
        """Whether the revision is a whole commit id, which says by itself what it stands for."""
        return bool(self.revision and _COMMIT.fullmatch(self.revision))

    def at(self, commit: str) -> GitPackage:
        """The same package at one commit."""
        return replace(self, revision=commit)

    @plainly
    def to(self, destination: str, path: str | None = None) -> NoReturn:
        """Not to be had: what can be stored is a folder, see `Package.to`.

        Raises:
            UsageError: always.
        """
        if hasattr(destination, "send_env"):
            raise UsageError("a package goes to a cluster in an env: rk.env(reqs=[package]).to(cluster)")
        raise UsageError(
            f"{self}: a package from git stays in its repository, which has it by its commit; only folders, wheels, source "
            "distributions and requirements files can be stored"
        )

    def __str__(self) -> str:
        """As a line of a requirements file, without a user name (but for SSH, where it belongs to the address)."""
        named = self.package_name or ""
        if self.extras:
            named += f"[{','.join(self.extras)}]"
        head = {"pip": "", "local": "local:", "reqs": "reqs:"}[self.install_method]
        revision = f"@{self.revision}" if self.revision else ""
        fragment = f"#subdirectory={self.subdirectory}" if self.subdirectory else ""
        marker = f" ; {self.marker}" if self.marker else ""
        return f"{head}{named}{' @ ' if named else ''}git+{self.git_url}{revision}{fragment}{marker}"

    def __repr__(self) -> str:
        parts: list[tuple[str, Any]] = [
            ("revision", self.revision),
            ("install_method", None if self.install_method == "pip" else self.install_method),
            ("username", None if self.git_url.startswith("ssh") else self.username),
            ("token", self.token),
            ("subdirectory", self.subdirectory),
            ("extras", list(self.extras)),
            ("package_name", self.package_name),
            ("marker", self.marker),
        ]
        shown = "".join(f", {name}={value!r}" for name, value in parts if value)
        return f"GitPackage({self.git_url!r}{shown})"


@plainly
def git_package(
    name: str | None = None,
    git_url: str | None = None,
    revision: str | None = None,
    install_method: str = "pip",
    **options: Any,
) -> GitPackage:
    """Make a package from git, as Runhouse's function of that name does.

    Args:
        name: a label of the caller's own; packages are not kept under names.
        git_url: see `GitPackage`, as for all others.
        revision: branch, tag or commit.
        install_method: "pip", "local" or "reqs".
        options: the other arguments of `GitPackage`.

    Raises:
        UsageError: see `GitPackage`.

    Example:
        >>> git_package(git_url="https://github.com/huggingface/diffusers.git", revision="v0.11.1")
        GitPackage('https://github.com/huggingface/diffusers.git', revision='v0.11.1')
    """
    if git_url is None:
        named = f" (nothing is kept under the name {name!r})" if name else ""
        raise UsageError(f"a package from git has a git_url{named}")
    return GitPackage(git_url, revision, install_method, **options)


def is_git(line: str) -> bool:
    """Whether a requirement line asks for a git checkout."""
    return bool(re.match(r"([A-Za-z0-9][\w.-]*\s*(\[[^\]]*\])?\s*@\s*)?git\+", line)) or bool(
        re.fullmatch(r"[\w.-]+@[\w.-]+:(?!//)[\w./~@-]+", line)
    )


def _checked_url(given: Any) -> tuple[str, str | None]:
    """The URL without a user name, and the user name; for SSH it stays in the URL.

    Nothing of a URL that may hold a password is repeated.
    """
    if not isinstance(given, str) or not given.strip():
        raise UsageError(
            "git_url is the URL of a git repository, 'git@host:owner/repo', a path, or 'owner/repo' for GitHub"
        )
    url = given.strip().removeprefix("git+")
    if re.search(r"\s", url) or url.startswith("-"):
        raise UsageError("git_url has a blank or a line break in it, or begins with '-'")
    if url.startswith(("./", "../", "~", "/")) or url in (".", ".."):
        path = Path(url).expanduser().absolute()
        return str(Path(*path.parts)), None
    if "://" not in url:
        if _SHORT.fullmatch(url):
            return f"https://github.com/{url.removesuffix('.git')}.git", None
        user, mark, _ = url.rpartition("@")
        if not _SCP.fullmatch(url) or ":" in user:
            raise UsageError(
                "git_url is no URL of a git repository: write https://host/owner/repo, git@host:owner/repo, ./folder, or owner/repo "
                "for one on GitHub; a branch, tag or commit goes into revision="
            )
        if mark and _TOKEN.match(user):
            raise _password()
        return url, user or None
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in _SCHEMES:
        raise UsageError(f"git_url begins with {scheme[:20]!r}: git repositories are reached by {', '.join(_SCHEMES)}")
    if (parts := _parts(url)) is None:  # "user:pass/word@host": what follows the colon is no port
        raise _password() if "@" in rest else UsageError("git_url has a port that is no number")
    host, port = parts.hostname, parts.port
    user = unquote(parts.netloc.rpartition("@")[0])
    if ":" in user or "@" in user or (user and _TOKEN.match(user)):
        raise _password()
    if parts.query or parts.fragment:
        raise UsageError("git_url has a '?' or '#' in it: give revision= and subdirectory= by themselves")
    if not host and scheme != "file":
        raise UsageError("git_url names no host")
    address = f"[{host}]" if host and ":" in host else host or ""
    address += f":{port}" if port else ""
    if scheme.lower() == "ssh":
        return url, user or None
    return urlunsplit((scheme.lower(), address, parts.path, "", "")), user or None


def _variables(url: str) -> tuple[str, str | None, Secret | None]:
    """A URL with its environment variables filled in, but for the one that is its password: that stays a reference."""
    found = _LOGIN.match(url)
    if found is None:
        return _filled(url), None, None
    name = found["token"] or found["alone"]
    secret = Secret(name, value=InUrl(name))
    return _filled(found["scheme"] + url[found.end() :]), unquote(_filled(found["user"] or "")) or None, secret


def _filled(text: str) -> str:
    return _VARIABLE.sub(lambda found: os.environ.get(found[1], found[0]), text)


def _parts(url: str) -> SplitResult | None:
    """The parts of a URL; None for a malformed one. The ValueError quotes it, so it must not become the context of another error."""
    try:
        parts = urlsplit(url)
        return parts if (parts.port or 0) >= 0 else None
    except ValueError:
        return None


def _password() -> UsageError:
    return UsageError(
        "the URL of a git repository holds a password or token (it is not repeated here): take it out, and give it as "
        "rk.GitPackage(git_url=..., token=rk.Secret(...)), or let git's credential helper know it"
    )


def _split_revision(url: str) -> tuple[str, str | None]:
    """A URL's "@revision", which is behind the last "@" after the host."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        host, colon, path = url.partition(":")
        if not colon:
            host, path = "", url
        path, at, revision = path.rpartition("@")
        return (f"{host}{colon}{path}", unquote(revision)) if at else (url, None)
    authority, slash, path = rest.partition("/")
    before, at, revision = path.rpartition("@")
    if not at:
        return url, None
    if ":" in authority and not re.search(r"(^|\]|[\w.-]):\d+$", authority.rpartition("@")[2]) and "@" not in authority:
        raise _password()  # "user:pass/word@host/repo": the authority is no host
    return f"{scheme}{mark}{authority}{slash}{before}", unquote(revision) or None


def _fit_revision(revision: Any) -> bool:
    """As git-check-ref-format(1) has it, roughly; nothing that git could take for an option."""
    return (
        isinstance(revision, str)
        and bool(re.fullmatch(r"(?!-)[^\s\x00-\x20~^:?*\[\\]+", revision))
        and ".." not in revision
    )


def _checked_extras(extras: Any) -> tuple[str, ...]:
    if isinstance(extras, str) or not isinstance(extras, Sequence):
        raise UsageError(f"extras is a list of names, not {type(extras).__name__}")
    for extra in extras:
        if not isinstance(extra, str) or not _NAME.fullmatch(extra):
            raise UsageError(f"{extra!r} is no name of an extra")
    return tuple(sorted(extras))

"""Git, on this machine: what a revision stands for, and a checkout of it.

Hosts never see a git server. What they need is made of a checkout here, so that logins (tokens, SSH keys, credential helpers) stay
with the user; sending them to a host, however briefly, would trust it with more than it needs.

Per repository one bare repository is kept below `RUNKIT_HOME/git`, and a folder per commit that was asked for. Both are made beside
their place and renamed into it, under a lock: two processes may ask for the same at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from runkit.client import tree_copy
from runkit.client.askpass import Askpass, Login, Origin, origin
from runkit.client.filelock import held
from runkit.client.programs import run
from runkit.client.progress import Report
from runkit.client.set_up import current
from runkit.errors import DiskFull, FetchFailed, InstallFailed, LoginRefused, ResolutionFailed, UsageError
from runkit.model.digest import digest
from runkit.model.git_package import GitPackage
from runkit.model.passed_on import environment, keep_out
from runkit.model.providers import PROVIDERS
from runkit.model.urls import without_credentials
from runkit.wire import places
from runkit.wire.installers import failure_kind

_ATTEMPTS = 3
_LAST_LINES = 30
_STALE_S = 600
_REPOSITORY = re.compile(
    r"GIT_(ALTERNATE_OBJECT_DIRECTORIES|OBJECT_DIRECTORY|DIR|WORK_TREE|INDEX_FILE|PREFIX|COMMON_DIR|NAMESPACE|SHALLOW_FILE|"
    r"QUARANTINE_PATH|TRACE\w*|CURL_VERBOSE)"
)
"""Variables that point git to another repository, as inside a git hook, or make it tell what it sends."""

_LOGIN = (
    r"Authentication failed|could not read (Username|Password)|Access denied|Permission denied|returned error: 40[13]|"
    r"Host key verification failed|terminal prompts disabled|Invalid username or (password|token)"
)
_MISSING = (
    r"Repository not found|repository '.*' not found|does not appear to be a git repository|returned error: 404|"
    r"does not exist|not our ref|couldn't find remote ref|No such (file or directory|device or address, though)|not valid: is this a git"
)
_NETWORK = (
    r"Could not resolve|Couldn't resolve|Connection (refused|reset|timed out|closed)|timed out|Failed to connect|Couldn't connect|"
    r"early EOF|RPC failed|returned error: (408|429|5\d\d)|Network is unreachable|No route to host|Recv failure|unexpected disconnect|"
    r"Could not read from remote repository|unable to access|hung up"
)


class Git:
    """Git repositories as this client has them, with the logins that an env's packages name.

    Args:
        packages: those whose tokens may be used, each at its own server.
        progress: told what happens.
    """

    def __init__(self, packages: Iterable[GitPackage] = (), progress: Report = lambda event: None) -> None:
        self._progress = progress
        self._commits: dict[tuple[str, str | None], str] = {}
        self._logins: dict[Origin, Login] = {}
        self._asked: dict[str, Login] = {}  # URL -> the login for it
        for package in packages:
            self.know(package)

    def know(self, package: GitPackage) -> None:
        """Take up the login that a package names."""
        if package.token is None:
            return
        if not package.token.is_reference and (provider := PROVIDERS.get(package.token.name)):
            for variable in (name for names in provider.variables for name in names):
                keep_out(variable)
        # Where the user's own `url.<base>.insteadOf` leads, if there is one: that is the server git will ask for.
        asked = self._local(_home(), "ls-remote", "--get-url", package.git_url) or package.git_url
        if asked.startswith(("https://", "http://")):
            login = Login(origin(asked), package.username, package.token)
            if login.origin not in self._logins and login.is_in_clear:
                self._progress(
                    {"warning": f"{login.address} is not encrypted: everybody on the way can read the token"}
                )
            self._logins.setdefault(login.origin, login)
            self._asked[package.git_url] = login

    def commit(self, package: GitPackage) -> str:
        """The commit that a package's revision stands for; asked once, of the server, unless it is a commit itself.

        Raises:
            ResolutionFailed: there is no such repository or revision.
            LoginRefused, FetchFailed: the server refuses the login, or cannot be reached.
        """
        if package.is_exact:
            return str(package.revision)
        self.know(package)
        key = package.git_url, package.revision
        if key not in self._commits:
            self._commits[key] = self._resolved(package)
        return self._commits[key]

    def checkout(self, package: GitPackage) -> Path:
        """The folder with a package's files at the commit it stands for, which belongs to runkit and is not to be changed.

        Raises:
            ResolutionFailed: there is no such commit or subdirectory.
            LoginRefused, FetchFailed: the server refuses the login, or cannot be reached.
        """
        self.know(package)
        commit = self.commit(package)
        place = _home() / "checkouts" / f"{_named(package)}-{commit[:12]}-{_id(package.git_url, commit)}"
        if not place.is_dir():
            with held(_home() / f".{_id(package.git_url)}.lock"):
                if not place.is_dir():
                    self._make(package, commit, place)
        with contextlib.suppress(OSError):
            os.utime(place / ".git")  # it is used: see runkit.client.leftovers
        folder = place / package.subdirectory
        if not folder.is_dir():
            raise ResolutionFailed(f"{package} has no folder {package.subdirectory!r} at {commit[:12]}")
        return folder

    @contextlib.contextmanager
    def answering(self) -> Iterator[dict[str, str]]:
        """Variables under which another program's git, such as uv's, gets the same answers."""
        with Askpass(self._logins.values()) as asked:
            yield asked.for_others()

    # -- revisions

    def _resolved(self, package: GitPackage) -> str:
        wanted = package.revision or "HEAD"
        self._progress({"phase": f"look up {wanted} of {_named(package)}"})
        refs = {}
        for line in self._remote(package, ["ls-remote", "--", package.git_url]).splitlines():
            named, _, ref = line.partition("\t")
            refs[ref] = named
        # As git itself reads a name (gitrevisions(7)): a tag before a branch; of an annotated tag what it points to.
        for ref in (wanted, f"refs/{wanted}", f"refs/tags/{wanted}", f"refs/heads/{wanted}"):
            if ref in refs:
                return refs.get(f"{ref}^{{}}", refs[ref])
        if re.fullmatch(r"[0-9a-f]{4,64}", wanted) and (commit := self._short(package, wanted)):
            return commit
        if not refs:
            raise ResolutionFailed(f"the git repository {package.git_url} is empty")
        some = [
            ref.split("/", 2)[2] for ref in refs if ref.startswith(("refs/heads/", "refs/tags/")) and ref[-1] != "}"
        ]
        raise ResolutionFailed(
            f"the git repository {package.git_url} has no branch, tag or commit {wanted!r}; it has {_some(some)}"
        )

    def _short(self, package: GitPackage, beginning: str) -> str | None:
        with held(_home() / f".{_id(package.git_url)}.lock"):
            bare = self._bare(package)
            self._fetch_all(package, bare)
            found = self._local(bare, "rev-parse", "--verify", "--quiet", f"{beginning}^{{commit}}")
            if found is None and self._local(bare, "rev-parse", f"--disambiguate={beginning}"):
                raise ResolutionFailed(
                    f"several commits of {package.git_url} begin with {beginning!r}: give more of it"
                )
            return found

    # -- repositories

    def _bare(self, package: GitPackage) -> Path:
        bare = _home() / "repositories" / f"{_named(package)}-{_id(package.git_url)}"
        _tidy(bare)
        if not bare.is_dir():
            partial = bare.with_name(f"{bare.name}.{os.urandom(8).hex()}")
            places.private(bare.parent)
            self._must(package, self._run(["init", "--quiet", "--bare", "--template=", str(partial)], _home()))
            # Checkouts borrow its objects: nothing of it is ever thrown away behind their back.
            self._run(["config", "gc.auto", "0"], partial)
            partial.rename(bare)
        return bare

    def _fetch(self, package: GitPackage, bare: Path, commit: str) -> None:
        """Have a commit in the bare repository: alone where the server gives it so, else with all branches and tags."""
        if self._has(bare, commit):
            return
        self._progress({"phase": f"fetch {_named(package)} {commit[:12]}"})
        alone = ["fetch", "--quiet", "--depth=1", "--no-tags", "--", package.git_url]
        try:
            self._remote(package, [*alone, f"+{commit}:refs/runkit/{commit}"], bare, attempts=1)
        except LoginRefused:
            raise
        except (InstallFailed, ResolutionFailed):
            pass  # not every server gives single commits
        if not self._has(bare, commit):
            self._fetch_all(package, bare)
        if not self._has(bare, commit):
            raise ResolutionFailed(f"the git repository {package.git_url} has no commit {commit}, on any branch or tag")
        self._local(bare, "update-ref", f"refs/runkit/{commit}", commit)

    def _fetch_all(self, package: GitPackage, bare: Path) -> None:
        everything = ["fetch", "--quiet", "--prune"]
        if (bare / "shallow").exists():
            everything.append("--unshallow")
        refs = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
        self._remote(package, [*everything, "--", package.git_url, *refs], bare)

    def _has(self, bare: Path, commit: str) -> bool:
        return self._local(bare, "cat-file", "-e", f"{commit}^{{commit}}") is not None

    def _make(self, package: GitPackage, commit: str, place: Path) -> None:
        bare = self._bare(package)
        self._fetch(package, bare, commit)
        for left in places.private(place.parent).glob(f".{place.name}.*"):
            shutil.rmtree(left, ignore_errors=True)  # of a process that was killed: this one has the lock
        partial = place.parent / f".{place.name}.{os.urandom(8).hex()}"
        try:
            self._check_out(package, bare, commit, partial)
            if tree_copy.versioned_by_git(partial / package.subdirectory) and (bare / "shallow").exists():
                # The version is made of tags: they, and what lies between them and the commit, have to be here.
                self._fetch_all(package, bare)
                shutil.rmtree(partial)
                self._check_out(package, bare, commit, partial)
            partial.rename(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _check_out(self, package: GitPackage, bare: Path, commit: str, folder: Path) -> None:
        """A work tree that borrows the objects of the bare repository."""
        self._must(package, self._run(["init", "--quiet", "--template=", str(folder)], _home()))
        git = folder / ".git"
        (git / "objects" / "info").mkdir(exist_ok=True)
        (git / "objects" / "info" / "alternates").write_text(f"{bare / 'objects'}\n")
        if (bare / "shallow").exists():
            shutil.copyfile(bare / "shallow", git / "shallow")
        if tags := self._local(bare, "for-each-ref", "--format=%(objectname) %(refname)", "refs/tags"):
            (git / "packed-refs").write_text(f"{tags}\n")
        self._run(["config", "remote.origin.url", package.git_url], folder)  # relative submodules start from it
        self._must(
            package, self._run(["-c", "advice.detachedHead=false", "checkout", "--quiet", "--detach", commit], folder)
        )
        if (folder / ".gitmodules").is_file():
            self._progress({"phase": f"fetch the submodules of {_named(package)}"})
            # git itself refuses submodules from paths, which are for repositories from paths alone.
            paths = ["-c", "protocol.file.allow=always"] if _is_local(package.git_url) else []
            self._remote(package, [*paths, "submodule", "--quiet", "update", "--init", "--recursive"], folder)
        attributes = folder / ".gitattributes"
        if attributes.is_file() and "filter=lfs" in attributes.read_text(errors="replace"):
            self._large_files(package, folder)

    def _large_files(self, package: GitPackage, folder: Path) -> None:
        if self._local(folder, "lfs", "version") is None:
            self._progress(
                {
                    "warning": f"{package.git_url} keeps large files with git-lfs, which is not installed here: they are missing"
                }
            )
            return
        self._local(folder, "lfs", "install", "--local")
        self._remote(package, ["lfs", "pull"], folder)

    # -- running git

    def _remote(
        self, package: GitPackage, arguments: Sequence[str], cwd: Path | None = None, attempts: int = _ATTEMPTS
    ) -> str:
        """What git answers where it has to ask the server; tried again where the network is at fault."""
        own = self._asked.get(package.git_url)  # on a server with a token for each repository, its own one counts
        logins = {**self._logins, own.origin: own} if own else self._logins
        for attempt in range(attempts):
            with Askpass(logins.values()) as asked:
                done = self._run(arguments, cwd or _home(), asked=asked)
                if done.returncode == 0:
                    return done.stdout.strip("\n")
                if asked.refusal:
                    raise asked.refusal
                error = self._failure(package, asked.without_values(done.stderr))
            if not isinstance(error, FetchFailed) or attempt + 1 == attempts:
                raise error
            again = f"trying again ({attempt + 2} of {attempts})"
            self._progress({"warning": f"the git repository {package.git_url} cannot be reached; {again}"})
            time.sleep(current().left(0.5 * 2**attempt) or 0)
        raise AssertionError("unreachable")

    def _must(self, package: GitPackage, done: subprocess.CompletedProcess[str]) -> None:
        if done.returncode:
            raise self._failure(package, done.stderr)

    def _local(self, cwd: Path, *arguments: str) -> str | None:
        done = self._run(arguments, cwd)
        return done.stdout.strip() if done.returncode == 0 else None

    def _run(
        self, arguments: Sequence[str], cwd: Path, asked: Askpass | None = None
    ) -> subprocess.CompletedProcess[str]:
        variables = {name: value for name, value in environment().items() if not _REPOSITORY.fullmatch(name)}
        variables.update(GIT_TERMINAL_PROMPT="0", GIT_OPTIONAL_LOCKS="0", GIT_LFS_SKIP_SMUDGE="1", LC_ALL="C")
        if asked:
            variables.update(asked.variables)
        settings = ["-c", f"core.hooksPath={os.devnull}", "-c", "http.lowSpeedLimit=100", "-c", "http.lowSpeedTime=60"]
        settings += [part for name, value in (asked.settings if asked else ()) for part in ("-c", f"{name}={value}")]
        if not {"GIT_SSH", "GIT_SSH_COMMAND"} & set(variables) and not _has_ssh_command(variables):
            variables["GIT_SSH_COMMAND"] = "ssh -oBatchMode=yes -oConnectTimeout=20"
        try:
            # In a session of its own, as this runs it, ssh cannot ask on the terminal behind the progress display.
            return run(["git", *settings, *arguments], cwd, variables)
        except FileNotFoundError:
            raise UsageError("packages from git need git on this machine, and there is none: install it") from None

    def _failure(self, package: GitPackage, said: str) -> InstallFailed | ResolutionFailed:
        said = without_credentials("\n".join(said.strip().splitlines()[-_LAST_LINES:]))
        where = f"the git repository {package.git_url}"
        if failure_kind(said) is DiskFull:
            return DiskFull(f"{where}: no space is left on this machine.\ngit says: {said}", said)
        if re.search(_LOGIN, said):
            return LoginRefused(f"{where} {self._who(package)}\ngit says: {said}", said)
        if re.search(_MISSING, said):
            return ResolutionFailed(f"{where} does not exist, or is hidden from this login.\ngit says: {said}", said)
        if re.search(_NETWORK, said):
            return FetchFailed(
                f"{where} cannot be reached from this machine. Git runs here and not on the host, so that no login leaves this "
                f"machine: a server that only the host reaches needs a tunnel or a VPN.\ngit says: {said}",
                said,
            )
        return InstallFailed(f"{where}: git ended with an error: {said}", said)

    def _who(self, package: GitPackage) -> str:
        if not package.git_url.startswith("http"):
            return "refuses this machine's SSH login: see that `ssh` reaches it without asking anything (key, agent, known_hosts)."
        login = self._asked.get(package.git_url) or self._logins.get(origin(package.git_url))
        if login is None:
            return "wants a login: give token=rk.Secret(...), or let git's credential helper know one."
        return f"refused the token of {login.token!r} for the user {login.user!r}."


def _has_ssh_command(variables: dict[str, str]) -> bool:
    try:
        done = subprocess.run(
            ["git", "config", "--get", "core.sshCommand"], env=variables, stdin=subprocess.DEVNULL, capture_output=True
        )
    except FileNotFoundError:
        return True  # what runs git next says it
    return done.returncode == 0


def _home() -> Path:
    return places.private(places.home() / "git")


def _tidy(bare: Path) -> None:
    """Remove the lock files that a git which was killed has left in a repository; a running one is done with its own by then."""
    for lock in (*bare.glob("*.lock"), *(bare / "refs").rglob("*.lock")):
        with contextlib.suppress(OSError):
            if time.time() - lock.stat().st_mtime > _STALE_S:
                lock.unlink()


def _named(package: GitPackage) -> str:
    """The repository's name, as people say it."""
    path = package.git_url.rpartition(":")[2] if "://" not in package.git_url else urlsplit(package.git_url).path
    last = path.rstrip("/").removesuffix(".git").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._]+", "-", last).strip("-.")[:40] or "repository"


def _id(*parts: str) -> str:
    return digest(list(parts))[:12]


def _is_local(url: str) -> bool:
    return url.startswith(("/", "file://"))


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown

"""The one tree of errors.

    RunkitError
    ├── UsageError                 a wrong argument, found before anything was changed
    │   ├── InvalidName            a reserved or malformed name of an env, key or cluster
    │   ├── RootError              a package root that is empty, too large, or a home folder
    │   ├── PythonMismatch         code by value between two minor versions of Python
    │   └── SecretNotFound         a secret that has no value on this machine
    ├── HostError                  the host, or the way to it
    │   ├── HostUnreachable        unknown name, no route, refused, timed out
    │   ├── AuthenticationFailed   the host refused the key or the password
    │   ├── HostKeyChanged         the host's key is not the recorded one
    │   ├── UnsupportedHost        not a platform runkit's server can run on
    │   ├── SetupFailed            setup_cluster.sh ended with an error
    │   └── PortInUse              the server's port, or one of Ray's, belongs to somebody else
    ├── ServerError                the server answered with an error
    │   ├── NotAuthorized          the token was refused
    │   └── VersionMismatch        client and server run different code and the server is busy
    ├── EnvError                   an environment could not be made
    │   ├── ResolutionFailed       something that is required does not exist
    │   │   └── RequirementsConflict   requirements that contradict each other
    │   ├── SyncRefused            the local environment cannot be replicated as strictly as asked
    │   ├── InstallFailed          the installer ended with an error
    │   │   ├── BuildFailed        a wheel cannot be built
    │   │   ├── FetchFailed        an index, git server or file storage cannot be reached; the one kind that is tried again
    │   │   ├── LoginRefused       an index, git server or file storage wants other credentials
    │   │   ├── DiskFull           no space is left on the host, or here
    │   │   └── InstallTimeout     the set-up took longer than its `install_timeout` (also a TimeoutError)
    │   ├── InterpreterNotFound    no Python of that version on the host, by uv, or here
    │   └── EnvNotFound            no env of that name on the cluster
    ├── CallError                  a call that gave no result of its own
    │   ├── RemoteError            the user's exception, where it cannot be itself here
    │   ├── WorkerDied             the env's process ended during the call
    │   ├── CallTimeout            the call took longer than its timeout (also a TimeoutError)
    │   ├── ConnectionLost         the way to the cluster was cut and did not come back (also a ConnectionError)
    │   ├── NotPicklable           arguments or a result that cannot be sent
    │   └── ResultNotLoadable      a result that needs a module this side lacks
    └── KeyExists                  rename onto a key that exists (also a KeyError)

Standard library only, Python 3.9 and later: both sides import this file.
"""

from __future__ import annotations


class RunkitError(Exception):
    """The root of every error runkit raises itself."""


class UsageError(RunkitError, ValueError):
    """A wrong argument; nothing was changed anywhere."""


class InvalidName(UsageError):
    """A name that is reserved or has characters a name cannot have."""


class RootError(UsageError):
    """The package root cannot be synced: it is empty, too large, or a home folder."""


class PythonMismatch(UsageError):
    """Code that travels by value needs the same minor version of Python on both sides."""


class SecretNotFound(UsageError):
    """A secret has no value on this machine; nothing was installed."""


class HostError(RunkitError):
    """The host, or the way to it, is at fault."""


class HostUnreachable(HostError, ConnectionError):
    """The host's name is unknown, there is no route, nobody listens, or it did not answer in time."""


class AuthenticationFailed(HostError):
    """The host refused the key, agent or password it was offered."""


class HostKeyChanged(HostError):
    """The host shows another key than the one recorded in known_hosts."""


class UnsupportedHost(HostError):
    """The host's platform cannot run runkit's server."""


class SetupFailed(HostError):
    """`setup_cluster.sh` ended with an error; `.output` holds what it printed."""

    def __init__(self, message: str, output: str = ""):
        super().__init__(message)
        self.output = output


class PortInUse(HostError):
    """A port that the cluster needs belongs to another process."""


class ServerError(RunkitError):
    """The server answered with an error."""


class NotAuthorized(ServerError):
    """The server refused the token."""


class VersionMismatch(ServerError):
    """Client and server run different versions of runkit and the server is in use."""


class EnvError(RunkitError):
    """An environment could not be made; `.output` holds the installer's last lines."""

    def __init__(self, message: str, output: str = ""):
        super().__init__(message)
        self.output = output


class ResolutionFailed(EnvError):
    """The requirements cannot be satisfied: one of them does not exist, or they contradict each other."""


class RequirementsConflict(ResolutionFailed):
    """The requirements contradict each other; the message names both sides."""


class SyncRefused(EnvError):
    """The local environment cannot be replicated as strictly as asked; nothing was changed."""


class InstallFailed(EnvError):
    """The installer, a build or a set-up command ended with an error."""


class BuildFailed(InstallFailed):
    """A wheel could not be built from source."""


class FetchFailed(InstallFailed):
    """An index, git server or file storage could not be reached, and trying again did not help."""


class LoginRefused(InstallFailed):
    """An index, git server or file storage refused the credentials, or wants some."""


class DiskFull(InstallFailed):
    """No space is left on the host, or on this machine."""


class InstallTimeout(InstallFailed, TimeoutError):
    """The set-up took longer than the env's `install_timeout`; what it had started was ended."""


class InterpreterNotFound(EnvError):
    """No Python of the wanted version on the host, none that uv can fetch, none here to ship."""


class EnvNotFound(EnvError):
    """The cluster has no env of that name."""


class CallError(RunkitError):
    """A call that ended without a result or an exception of its own."""


class RemoteError(CallError):
    """An exception of remote code that cannot be itself on this side.

    Attributes:
        type_name: the exception's qualified type name over there.
        message: its `str()`.
        traceback: the formatted remote traceback.
    """

    def __init__(self, type_name: str, message: str = "", traceback: str = ""):
        super().__init__(type_name, message, traceback)
        self.type_name = type_name
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        head = f"{self.type_name}: {self.message}" if self.message else self.type_name
        return f"{head}\n\nRemote traceback:\n{self.traceback}" if self.traceback else head


class WorkerDied(CallError):
    """The env's process ended while the call ran.

    Attributes:
        exitcode: its exit status, or None when a signal ended it.
        signal: the signal's name ("SIGSEGV"), or None.
        stderr: the last lines that came out of it, those of standard output among them.
    """

    def __init__(self, message: str, exitcode: int | None = None, signal: str | None = None, stderr: str = ""):
        super().__init__(message, exitcode, signal, stderr)
        self.exitcode = exitcode
        self.signal = signal
        self.stderr = stderr

    def __str__(self) -> str:
        text = str(self.args[0])
        return f"{text}\nIts last lines of output:\n{self.stderr}" if self.stderr else text


class CallTimeout(CallError, TimeoutError):
    """The call took longer than its timeout."""


class ConnectionLost(CallError, ConnectionError):
    """The way to the cluster was cut and did not come back in time; the call may still be running there."""


class NotPicklable(CallError, TypeError):
    """Arguments or a result that pickle cannot send."""


class ResultNotLoadable(CallError):
    """The result arrived but needs a module, or a version of one, that this side lacks."""


class KeyExists(RunkitError, KeyError):
    """`rename` onto a key that already exists."""

    __str__ = Exception.__str__

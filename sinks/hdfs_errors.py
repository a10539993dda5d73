"""What WebHDFS answers, and what breaks on the way, as the errors of `sinks.base`; nothing of aiohttp leaves the sink.

https://hadoop.apache.org/docs/r3.4.2/hadoop-project-dist/hadoop-hdfs/WebHDFS.html#Error_Responses
"""

from __future__ import annotations

from dataclasses import dataclass

from sinks.base import Fenced, SinkError, SinkRefused, SinkUnavailable, TargetGone

STANDBY = "StandbyException"
RETRIABLE = "RetriableException"
NOT_FOUND = "FileNotFoundException"
NOT_EMPTY = "PathIsNotEmptyDirectoryException"
EXISTS = "FileAlreadyExistsException"

_SPACE = "free space or raise the quota, the job goes on by itself"
_NO_BLOCK = (
    "no DataNode takes a block: each is full, busy or away; free space or bring DataNodes back, then the job goes on "
    "by itself"
)
_SAFE_MODE = "the NameNode takes no writes until it leaves safe mode, the job goes on by itself"
_KERBEROS = (
    "the NameNode does not accept user {user!r} by its name alone (is it secured with Kerberos?); name an address that "
    "takes simple authentication"
)
_RIGHTS = (
    "give user {user!r} the right to write and enter {path!r} (hdfs dfs -chown, -chmod, -setfacl), or name another "
    "sink.user"
)
_A_FILE = "a file stands where a folder is needed, choose another path"
_TOO_MANY = "raise dfs.namenode.fs-limits.max-directory-items, or write larger chunks into another sink.path"

# By what the message says: these come under names that mean anything. Before the names, in this order.
_BY_MESSAGE: tuple[tuple[str, SinkError], ...] = (
    ("safe mode", SinkUnavailable("safe_mode", _SAFE_MODE)),
    ("could only be written to", SinkUnavailable("no_space", _NO_BLOCK)),
    ("could only be replicated to", SinkUnavailable("no_space", _NO_BLOCK)),
    ("Failed to find datanode", SinkUnavailable("no_datanode", "the job goes on by itself when a DataNode is alive")),
    ("is not a directory", SinkRefused("folder_not_writable", _A_FILE)),
    ("replication factor", SinkRefused("replication_not_allowed", "choose another sink.replication")),
)
_BY_NAME: dict[str, SinkError] = {
    "SafeModeException": SinkUnavailable("safe_mode", _SAFE_MODE),
    "DSQuotaExceededException": SinkUnavailable("no_space", _SPACE),
    "NSQuotaExceededException": SinkUnavailable("no_space", _SPACE),
    "QuotaByStorageTypeExceededException": SinkUnavailable("no_space", _SPACE),
    "QuotaExceededException": SinkUnavailable("no_space", _SPACE),
    "DiskOutOfSpaceException": SinkUnavailable("no_space", _SPACE),
    "AccessControlException": SinkRefused("permission_denied", _RIGHTS),
    "SecurityException": SinkRefused("authentication_failed", _KERBEROS),
    "AuthenticationException": SinkRefused("authentication_failed", _KERBEROS),
    "InvalidToken": SinkRefused("authentication_failed", _KERBEROS),
    "ParentNotDirectoryException": SinkRefused("folder_not_writable", _A_FILE),
    EXISTS: SinkRefused("folder_not_writable", _A_FILE),
    "InvalidPathException": SinkRefused("path_not_allowed", "choose another sink.path"),
    "PathComponentTooLongException": SinkRefused("path_not_allowed", "choose another sink.path"),
    "IllegalArgumentException": SinkRefused("path_not_allowed", "choose another sink.path"),
    "MaxDirectoryItemsExceededException": SinkRefused("folder_full", _TOO_MANY),
}
_REMOVED = frozenset({NOT_FOUND, "LeaseExpiredException"})


@dataclass(frozen=True, slots=True)
class Place:
    """What a message has to name."""

    url: str
    path: str
    user: str

    def doing(self, what: str) -> str:
        """How every message begins."""
        return f"{what} in sink.path {self.path!r} of HDFS at {self.url!r}"


class RemoteError(Exception):
    """An answer of 400 or more. `exception` is the name of Hadoop's exception, empty where there was none."""

    def __init__(self, status: int, exception: str, message: str) -> None:
        # The first line: what follows is the server's stack.
        self.message = message.partition("\n")[0].strip()[:400]
        super().__init__(f"{status} {exception}: {self.message}")
        self.status = status
        self.exception = exception


def unreachable(place: Place, what: str, address: str, cause: str) -> SinkUnavailable:
    """A server did not take the connection, or lost it."""
    return SinkUnavailable(
        "sink_unreachable",
        f"{place.doing(what)}: {address} did not answer: {cause}; check that the NameNodes of sink.url and their "
        "DataNodes run and that these addresses can be reached from here",
    )


def folder_missing(place: Place, what: str) -> TargetGone:
    """The job's folder is not there any more."""
    return TargetGone(
        "folder_missing",
        f"{place.doing(what)} failed: the folder is gone; bring it back with its files, or start from the beginning",
    )


def temporary_gone(place: Place, what: str) -> Fenced:
    """The temporary file of this writer, or its folder, was removed."""
    return Fenced(
        "temporary_gone",
        f"{place.doing(what)} failed: the temporary file or its folder was removed, by a newer owner of the split or "
        "by hand",
    )


def name_taken(place: Place, what: str) -> SinkUnavailable:
    """An existing name: unknown until it is compared with the prepared tries. It may be our own rename, executed by
    a call whose answer was lost."""
    return SinkUnavailable(
        "name_taken",
        f"{place.doing(what)} found the name taken; it is compared with the prepared tries at the next open",
    )


def translated(place: Place, what: str, error: RemoteError) -> SinkError:
    """What an answer means to the runner, where the caller has no meaning of its own for it."""
    said = f"{place.doing(what)} failed: {error.message or error.status}"
    known = next(
        (meant for words, meant in _BY_MESSAGE if words in error.message.replace("safemode", "safe mode")), None
    )
    if error.status == 401:
        known = _BY_NAME["SecurityException"]
    known = known or _BY_NAME.get(error.exception)
    if known is not None:
        remedy = known.message.format(user=place.user, path=place.path)
        return type(known)(known.code, f"{said}; {remedy}")
    if error.exception in _REMOVED:
        return temporary_gone(place, what)
    if not error.exception:
        return SinkUnavailable(
            "sink_unavailable",
            f"{place.doing(what)}: the answer {error.status} is none of WebHDFS; check that sink.url names the HTTP "
            "address of a NameNode (port 9870, https 9871) and that dfs.webhdfs.enabled is on",
        )
    return SinkUnavailable("sink_unavailable", f"{said} ({error.exception}); look at the NameNode's log")


def nonsense(place: Place, what: str) -> SinkUnavailable:
    """An answer that is not what WebHDFS answers."""
    return SinkUnavailable(
        "sink_unavailable", f"{place.doing(what)}: the answer can not be read; is this WebHDFS, or a proxy before it?"
    )

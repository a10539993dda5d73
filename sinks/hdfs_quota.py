"""Quotas of a folder and of those above it, looked at before rows come.

https://hadoop.apache.org/docs/r3.4.2/hadoop-project-dist/hadoop-hdfs/HdfsQuotaAdminGuide.html: a new block counts with
its whole size in every copy, so a folder with less room than that takes no file, however small.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sinks.base import SinkUnavailable
from sinks.hdfs_errors import RemoteError

if TYPE_CHECKING:
    from sinks.hdfs_client import WebHdfs

_WHAT: Final = "checking"
_NAMES: Final = 3
"""Names that the first chunk needs beside the job's folder: the hidden folder, the split's own, a file."""


async def refuse_full(client: WebHdfs, folder: str) -> None:
    """Raises SinkUnavailable `no_space` naming the quota that takes no more files. What a server does not tell, or not
    to this user, is passed over: then the run finds out."""
    block = None
    while True:
        with suppress(RemoteError, KeyError, TypeError, ValueError):
            usage = (await client.call("GET", "GETQUOTAUSAGE", folder, _WHAT))["QuotaUsage"]
            names = int(usage["quota"]) - int(usage["fileAndDirectoryCount"])
            if int(usage["quota"]) >= 0 and names < _NAMES:
                raise _full(client, folder, f"{max(0, names)} names are left of its quota of {usage['quota']}")
            if int(usage["spaceQuota"]) >= 0:
                block = block or await _block(client, folder)
                left = int(usage["spaceQuota"]) - int(usage["spaceConsumed"])
                if left < block:
                    told = f"{left} bytes are left of its space quota of {usage['spaceQuota']}, a block needs {block}"
                    raise _full(client, folder, told)
        if folder == "/":
            return
        folder = folder.rpartition("/")[0] or "/"


async def _block(client: WebHdfs, folder: str) -> int:
    """What a new block counts, in all its copies."""
    defaults = (await client.call("GET", "GETSERVERDEFAULTS", folder, _WHAT))["FsServerDefaults"]
    return int(defaults["blockSize"]) * int(defaults["replication"])


def _full(client: WebHdfs, folder: str, told: str) -> SinkUnavailable:
    return SinkUnavailable(
        "no_space",
        f"{client.place.doing(_WHAT)}: {folder!r} is full: {told}; remove files or raise the quota "
        "(hdfs dfsadmin -setSpaceQuota, -setQuota), the job goes on by itself",
    )

"""What Hadoop's exceptions mean to the runner. The texts are those of Hadoop 3.4.2."""

from __future__ import annotations

import pytest

from sinks.base import Fenced, SinkError, SinkRefused, SinkUnavailable
from sinks.hdfs_errors import Place, RemoteError, translated

PLACE = Place("http://nn:9870", "/exports/{orders}", "ann")

CASES: dict[str, tuple[int, str, str, type[SinkError], str]] = {
    "rights": (
        403,
        "AccessControlException",
        'Permission denied: user=ann, access=WRITE, inode="/":hdfs:supergroup:drwxr-xr-x',
        SinkRefused,
        "permission_denied",
    ),
    "not a folder": (403, "AccessControlException", "/a (is not a directory)", SinkRefused, "folder_not_writable"),
    "parent": (403, "ParentNotDirectoryException", "/a (is not a directory)", SinkRefused, "folder_not_writable"),
    "taken by a file": (403, "FileAlreadyExistsException", "Path is x: /a", SinkRefused, "folder_not_writable"),
    "removed": (404, "FileNotFoundException", "rename source /a is not found.", Fenced, "temporary_gone"),
    "removed while written": (403, "LeaseExpiredException", "No lease on /a", Fenced, "temporary_gone"),
    "safe mode": (
        403,
        "SafeModeException",
        "Cannot rename /a. Name node is in safe mode.",
        SinkUnavailable,
        "safe_mode",
    ),
    "starting": (
        403,
        "RetriableException",
        "Zero blocklocations for /a. Name node is in safe mode.",
        SinkUnavailable,
        "safe_mode",
    ),
    "space quota": (
        403,
        "DSQuotaExceededException",
        "The DiskSpace quota of /a is exceeded",
        SinkUnavailable,
        "no_space",
    ),
    "names quota": (403, "NSQuotaExceededException", "The NameSpace quota is exceeded", SinkUnavailable, "no_space"),
    "no node takes it": (
        403,
        "IOException",
        "File /a could only be written to 0 of the 1 minReplication nodes. There are 1 datanode(s) running",
        SinkUnavailable,
        "no_space",
    ),
    "no node": (
        403,
        "IOException",
        "Failed to find datanode, suggest to check cluster",
        SinkUnavailable,
        "no_datanode",
    ),
    "copies": (
        403,
        "IOException",
        "Requested replication factor of 600 exceeds maximum of 512 for /a",
        SinkRefused,
        "replication_not_allowed",
    ),
    "a name": (400, "InvalidPathException", "Invalid path name", SinkRefused, "path_not_allowed"),
    "a long name": (
        403,
        "PathComponentTooLongException",
        "The maximum path component",
        SinkRefused,
        "path_not_allowed",
    ),
    "many files": (403, "MaxDirectoryItemsExceededException", "The directory item limit", SinkRefused, "folder_full"),
    "kerberos": (401, "", "", SinkRefused, "authentication_failed"),
    "a stranger": (401, "SecurityException", "Failed to obtain user group", SinkRefused, "authentication_failed"),
    "no WebHDFS": (404, "", "", SinkUnavailable, "sink_unavailable"),
    "anything else": (500, "NullPointerException", "", SinkUnavailable, "sink_unavailable"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_refusal_has_its_class_code_and_remedy(case: str):
    status, exception, message, kind, code = CASES[case]
    error = translated(PLACE, "writing", RemoteError(status, exception, f"{message}\n\tat org.apache.hadoop.Stack(1)"))
    assert type(error) is kind
    assert error.code == code
    assert "/exports/{orders}" in error.message
    assert "org.apache.hadoop" not in error.message
    assert message in error.message or kind is Fenced
    if code == "permission_denied":
        assert "'ann'" in error.message

"""A real HDFS (NameNode and DataNode 3.4, WebHDFS) on free loopback ports, from Maven's jars."""

from __future__ import annotations

import asyncio
import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any, Self
from xml.sax.saxutils import escape

from tests.support.jars import HDFS, LOGGING, jars, java
from tests.support.ports import LOOPBACK, free_port
from tests.support.processes import ChildProcess
from tests.support.proxy import FaultProxy
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_JVM = ("-Xms256m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
# Without them every WebHDFS call is a 500 though JMX says healthy.
_QUIET = "handlers=java.util.logging.ConsoleHandler\n.level=SEVERE\n"
_OPENS = tuple(
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in ("java.lang", "java.util", "java.util.concurrent", "java.net", "java.io", "java.nio")
)
_READY_SECONDS = 90.0
_LOG4J = """\
<Configuration status="error">
  <Appenders><Console name="out"><PatternLayout pattern="%d{ISO8601} %p %c %m%n"/></Console></Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
"""
SUPERUSER = "hdfs"


class HdfsError(RuntimeError):
    """WebHDFS refused a call of `HdfsServer.call`; `exception` is the name of Hadoop's exception."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"{status}: {body[:500]!r}")
        self.status = status
        try:
            self.exception = str(json.loads(body)["RemoteException"]["exception"])
        except (ValueError, KeyError):
            self.exception = ""


class HdfsServer(Server):
    """
    A NameNode and a DataNode in two processes, their data in a folder that is removed at `close`.

    `url` is the NameNode's WebHDFS address. `start` blocks (5 s) and must run in the main thread. Users have rights
    as on a Unix file system; `hdfs` is the superuser, and / is open to everybody, with the sticky bit.
    """

    most_copies = 16
    """The largest replication of a file."""
    longest_name = 200
    """The longest component of a path, in bytes."""

    def __init__(
        self, *, folder: Path | None = None, settings: Mapping[str, str] | None = None, standby: bool = False
    ) -> None:
        super().__init__("HDFS", folder)
        self.port, self.rpc_port = free_port(), free_port()
        self.datanode_port, self.datanode_data_port, self.datanode_ipc_port = free_port(), free_port(), free_port()
        self._settings = {**(self._in_standby() if standby else {}), **(settings or {})}
        self._processes: dict[str, ChildProcess] = {}

    @property
    def url(self) -> str:
        """The NameNode's address for `sink.url`."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def namenode(self) -> ChildProcess:
        """The NameNode's process."""
        return self._child("namenode")

    @property
    def datanode(self) -> ChildProcess:
        """The DataNode's process."""
        return self._child("datanode")

    @property
    def processes(self) -> Sequence[ChildProcess]:
        """NameNode and DataNode, as far as they were ever started."""
        return tuple(self._processes.values())

    def launch(self) -> None:
        """Start what does not run, and return before it is ready."""
        self._prepare()
        for process in (self.namenode, self.datanode):
            if not process.running:
                process.launch()

    def wait_ready_blocking(self) -> None:
        """Until files can be written."""
        self.namenode.wait_ready(self._namenode_listens, _READY_SECONDS)
        self.datanode.wait_ready(self._ready, _READY_SECONDS)

    async def start_namenode_async(self) -> None:
        """Only the NameNode, until it says that it is in standby: what a server made with `standby` is for."""
        self._prepare()
        self.namenode.launch()
        await asyncio.to_thread(self.namenode.wait_ready, self._says_standby, _READY_SECONDS)

    # -- another client than ours ---------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        op: str,
        path: str,
        *,
        body: bytes | None = None,
        user: str = SUPERUSER,
        **parameters: str,
    ) -> bytes:
        """One WebHDFS call with the standard library; redirects are followed as a browser would. Blocks."""
        query = urllib.parse.urlencode({"op": op, "user.name": user, **parameters})
        url = f"{self.url}/webhdfs/v1{urllib.parse.quote(path)}?{query}"
        if body is not None:
            url = json.loads(_answer(urllib.request.Request(f"{url}&noredirect=true", method=method)))["Location"]
        return _answer(urllib.request.Request(url, data=body, method=method))

    def read(self, path: str) -> bytes:
        """A whole file. Blocks."""
        return self.call("GET", "OPEN", path)

    def write(self, path: str, body: bytes, *, user: str = SUPERUSER) -> None:
        """Make or replace a file. Blocks."""
        self.call("PUT", "CREATE", path, body=body, user=user, overwrite="true")

    def names(self, path: str) -> list[str]:
        """The names in a folder, in order; nothing for a folder that is not there. Blocks."""
        try:
            found = json.loads(self.call("GET", "LISTSTATUS", path))
        except HdfsError as error:
            if error.status == 404:
                return []
            raise
        return sorted(entry["pathSuffix"] for entry in found["FileStatuses"]["FileStatus"])

    def files_below(self, path: str) -> list[str]:
        """Every file below a folder, by its path relative to it. Blocks."""
        found = []
        for name in self.names(path):
            status = json.loads(self.call("GET", "GETFILESTATUS", f"{path}/{name}"))["FileStatus"]
            if status["type"] == "DIRECTORY":
                found += [f"{name}/{inner}" for inner in self.files_below(f"{path}/{name}")]
            else:
                found.append(name)
        return found

    def limit_space(self, path: str, quota: int | None) -> None:
        """Give a folder a space quota in bytes, or none: a call, where a program of Hadoop's takes seconds. Blocks."""
        self.call("PUT", "SETQUOTA", path, storagespacequota=str(-1 if quota is None else quota))

    def administer(self, *arguments: str) -> str:
        """Run `hdfs dfsadmin …` (2 s); RuntimeError with its words when it fails. Blocks."""
        command: list[str | Path] = [
            *self._java(),
            *("org.apache.hadoop.hdfs.tools.DFSAdmin", *arguments),
        ]
        return _run(command)

    # -- the processes --------------------------------------------------------------------------------------------

    def _child(self, role: str) -> ChildProcess:
        if role not in self._processes:
            name = {"namenode": "namenode.NameNode", "datanode": "datanode.DataNode"}[role]
            port = self.port if role == "namenode" else self.datanode_port
            command: list[str | Path] = [
                *self._java(),
                f"org.apache.hadoop.hdfs.server.{name}",
            ]
            log = self.folder / f"{role}.log"
            self._processes[role] = ChildProcess(f"hdfs-{role}:{port}", command, log=log, cwd=self.folder)
        return self._processes[role]

    def _java(self) -> list[str | Path]:
        quiet = f"-Djava.util.logging.config.file={self.folder / 'conf' / 'logging.properties'}"
        return [java(), *_JVM, *_OPENS, quiet, f"-DHADOOP_USER_NAME={SUPERUSER}", "-cp", self._classpath()]

    def _classpath(self) -> str:
        found: dict[str, Path] = {}
        for coordinate in (*HDFS, LOGGING):  # each resolved alone; the same jar comes several times
            for path in jars(coordinate):
                found.setdefault(path.name, path)
        return ":".join(str(path) for path in [self.folder / "conf", *found.values()])

    def _prepare(self) -> None:
        """Write the configuration and format the NameNode's folder, once."""
        conf = self.folder / "conf"
        if (self.folder / "formatted").exists():
            return
        for name in ("hdfs", "datanode"):
            (conf / "webapps" / name).mkdir(parents=True, exist_ok=True)
        (conf / "log4j2.xml").write_text(_LOG4J)
        (conf / "logging.properties").write_text(_QUIET)
        (conf / "core-site.xml").write_text(_xml(self._core()))
        (conf / "hdfs-site.xml").write_text(_xml(self._hdfs()))
        _run(
            [
                *self._java(),
                *("org.apache.hadoop.hdfs.server.namenode.NameNode", "-format", "-nonInteractive"),
            ]
        )
        (self.folder / "formatted").touch()

    def _core(self) -> dict[str, str]:
        return {
            "fs.defaultFS": f"hdfs://{LOOPBACK}:{self.rpc_port}",
            "hadoop.tmp.dir": str(self.folder / "data"),
            # The groups of users that the machine does not know are none of our business.
            "hadoop.user.group.static.mapping.overrides": f"{SUPERUSER}=supergroup",
        }

    def _hdfs(self) -> dict[str, str]:
        return {
            "dfs.replication": "1",
            "dfs.namenode.rpc-address": f"{LOOPBACK}:{self.rpc_port}",
            "dfs.namenode.http-address": f"{LOOPBACK}:{self.port}",
            "dfs.datanode.address": f"{LOOPBACK}:{self.datanode_data_port}",
            "dfs.datanode.http.address": f"{LOOPBACK}:{self.datanode_port}",
            "dfs.datanode.ipc.address": f"{LOOPBACK}:{self.datanode_ipc_port}",
            "dfs.datanode.hostname": LOOPBACK,
            "dfs.namenode.datanode.registration.ip-hostname-check": "false",
            "dfs.namenode.safemode.extension": "0",
            "dfs.replication.max": str(self.most_copies),
            "dfs.namenode.fs-limits.max-component-length": str(self.longest_name),
            "dfs.heartbeat.interval": "1",
            # How long the DataNode waits before it asks again whether a file is complete; 400 ms a file otherwise.
            "dfs.client.block.write.locateFollowingBlock.initial.delay.ms": "20",
            # A dead DataNode is known as dead after 2 x 500 ms + 10 x 1 s instead of after ten minutes.
            "dfs.namenode.heartbeat.recheck-interval": "500",
            **self._settings,
        }

    def _in_standby(self) -> dict[str, str]:
        """One of two NameNodes of a cluster, which nobody makes active."""
        return {
            "dfs.nameservices": "two",
            "dfs.ha.namenodes.two": "nn1,nn2",
            "dfs.ha.namenode.id": "nn1",
            "dfs.namenode.rpc-address.two.nn1": f"{LOOPBACK}:{self.rpc_port}",
            "dfs.namenode.http-address.two.nn1": f"{LOOPBACK}:{self.port}",
            "dfs.namenode.rpc-address.two.nn2": f"{LOOPBACK}:{free_port()}",
            "dfs.namenode.http-address.two.nn2": f"{LOOPBACK}:{free_port()}",
            "dfs.namenode.shared.edits.dir": f"file://{self.folder}/shared",
        }

    def _namenode_listens(self) -> bool:
        return self.namenode.listens_on(self.port)

    def _says_standby(self) -> bool:
        if not self._namenode_listens():
            return False
        try:
            self.call("GET", "LISTSTATUS", "/")
        except HdfsError as error:
            return error.exception == "StandbyException"
        except OSError:
            return False
        return False

    def _ready(self) -> bool:
        """Both are our children, and a file can be written and read."""
        if not self.datanode.listens_on(self.datanode_port):
            return False
        try:
            self.call("PUT", "SETPERMISSION", "/", permission="1777")
            self.write("/.ready", b"ready")
            return self.read("/.ready") == b"ready"
        except (HdfsError, OSError):
            return False


class _RewritingProxy(FaultProxy):
    """Replaces one address in what goes through by another of the same length."""

    def __init__(self, target_port: int, old: str, new: str) -> None:
        super().__init__(target_port)
        assert len(old) == len(new)
        self._old, self._new = old.encode(), new.encode()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        return (await super()._read(reader)).replace(self._old, self._new)


class HdfsProxies:
    """A fault proxy before the NameNode, and one before the DataNode that the NameNode's redirects lead to."""

    def __init__(self, server: HdfsServer) -> None:
        self.datanode = FaultProxy(server.datanode_port, port=free_port())
        self.namenode: FaultProxy = _RewritingProxy(
            server.port, f"{LOOPBACK}:{server.datanode_port}", self.datanode.address
        )

    @property
    def url(self) -> str:
        """The NameNode's address for `sink.url`."""
        return f"http://{self.namenode.address}"

    async def __aenter__(self) -> Self:
        """Start both."""
        await self.datanode.start()
        await self.namenode.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close both."""
        await self.namenode.close()
        await self.datanode.close()

    async def refuse(self) -> None:
        """Take no connection, and cut those that are open."""
        for proxy in (self.namenode, self.datanode):
            await proxy.refuse()
            proxy.cut()

    async def accept_again(self) -> None:
        """End of `refuse`."""
        for proxy in (self.namenode, self.datanode):
            await proxy.accept_again()


def _xml(settings: Mapping[str, str]) -> str:
    properties = "".join(
        f"<property><name>{escape(name)}</name><value>{escape(value)}</value></property>\n"
        for name, value in settings.items()
    )
    return f"<configuration>\n{properties}</configuration>\n"


def _run(command: list[str | Path]) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        start_new_session=True,  # a Ctrl-C at the terminal is ours to handle
    )
    if done.returncode:
        raise RuntimeError(f"{command[-2:]} failed\n{done.stdout}\n{done.stderr}")
    return done.stdout


def _answer(request: urllib.request.Request) -> bytes:
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            body: Any = answer.read()
            return bytes(body)
    except urllib.error.HTTPError as error:
        with error:
            raise HdfsError(error.code, error.read()) from None

"""Real OpenSearch and Elasticsearch nodes on free loopback ports, out of Maven's jars and two small Java classes."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.jars import cache_folder, jars, java
from tests.support.ports import LOOPBACK, free_port
from tests.support.processes import ChildProcess
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OPENSEARCH = (
    "org.opensearch:opensearch:3.3.2",
    "org.opensearch.plugin:transport-netty4-client:3.3.2",
    "org.apache.logging.log4j:log4j-core:2.21.0",
)
ELASTICSEARCH = ("org.elasticsearch:elasticsearch:8.19.5",)
ELASTICSEARCH_NETTY = "org.elasticsearch.plugin:transport-netty4:8.19.5"
COMPILER = "org.eclipse.jdt:ecj:3.42.0"

_SOURCES = Path(__file__).parent / "java"
_JVM = ("-Xms384m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_READY_SECONDS = 90.0
_LOG4J = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
"""
_PLUGIN = """\
description=transport over netty
version=8.19.5
name=transport-netty4
classname=org.elasticsearch.transport.netty4.Netty4Plugin
java.version=17
elasticsearch.version=8.19.5
has.native.controller=false
"""


class SearchServer(Server):
    """
    One node, its data in a folder that is removed at `close`. `flavour`: `opensearch` or `elasticsearch`.

    Neither has security: what needs users, keys or TLS goes through `tests.support.gateway`. A start
    takes 4 to 8 s.
    """

    def __init__(self, flavour: str = "opensearch", *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(flavour, None)
        self.flavour = flavour
        self.port, self.transport_port = free_port(), free_port()
        self._settings = dict(settings or {})

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http://{LOOPBACK}:{self.port}"

    def launch(self) -> None:
        """Start the program and return before it is ready."""
        if self._process is None:
            command = self._opensearch() if self.flavour == "opensearch" else self._elasticsearch()
            self._process = ChildProcess(
                f"{self.flavour}:{self.port}", command, log=self.folder / "node.log", cwd=self.folder
            )
        self._process.launch()

    def wait_ready_blocking(self) -> None:
        """Until it takes writes."""
        self.process.wait_ready(self._ready, _READY_SECONDS)

    # -- another client than the product's -----------------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None, *, ok: Sequence[int] = (200, 201)) -> Any:
        """One request; its answer as JSON. AssertionError for a status that is not in `ok`. Blocks."""
        status, text = self._request(method, path, body)
        assert status in ok, f"{method} {path}: {status} {text[:2000]}"
        return json.loads(text) if text else None

    def status(self, method: str, path: str) -> int:
        """The status of one request. Blocks."""
        return self._request(method, path, None)[0]

    def index_name(self) -> str:
        """A name that no index has."""
        return f"orders-{uuid.uuid4().hex[:12]}"

    def documents(self, index: str) -> dict[str, bytes]:
        """`_id` and source, byte for byte, of every document that a search finds after a refresh; {} without an index.
        Blocks."""
        if self.status("POST", f"/{index}/_refresh") == 404:
            return {}
        found: dict[str, bytes] = {}
        path, body = f"/{index}/_search?scroll=1m", {"size": 5000, "sort": ["_doc"]}
        while True:
            text = self._request("POST", path, body)[1]
            page = list(_hits(text))
            found.update(page)
            answer = json.loads(text)
            assert "error" not in answer, text[:2000]
            scroll = {"scroll_id": answer["_scroll_id"]}
            if not page:
                self.call("DELETE", "/_search/scroll", scroll)
                return found
            path, body = "/_search/scroll", {**scroll, "scroll": "1m"}

    def _request(self, method: str, path: str, body: Any) -> tuple[int, str]:
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    # -- how it is started ---------------------------------------------------------------------------------------

    def _opensearch(self) -> list[str | Path]:
        parts = [path for coordinate in OPENSEARCH for path in jars(coordinate)]
        classes = _compiled("OpenSearch3Boot", parts)
        (self.folder / "config").mkdir()
        (self.folder / "log4j2.properties").write_text(_LOG4J)
        classpath = ":".join(str(path) for path in (classes, *parts))
        log = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        return [java(), *_JVM, log, "-cp", classpath, "OpenSearch3Boot", *self._arguments()]

    def _elasticsearch(self) -> list[str | Path]:
        parts = jars(ELASTICSEARCH[0])
        classes = _compiled("Elasticsearch8Boot", parts)
        (self.folder / "config").mkdir()
        (self.folder / "config" / "log4j2.properties").write_text(_LOG4J)
        module = self.folder / "modules" / "transport-netty4"
        module.mkdir(parents=True)
        (module / "plugin-descriptor.properties").write_text(_PLUGIN)
        known = {path.name for path in parts}
        for path in jars(ELASTICSEARCH_NETTY):
            if path.name not in known:
                (module / path.name).symlink_to(path)
        modules = ":".join(str(path) for path in parts)
        return [
            *(java(), *_JVM, "--add-modules=ALL-MODULE-PATH", "-p", modules, "-cp", classes),
            *("Elasticsearch8Boot", *self._arguments()),
        ]

    def _arguments(self) -> list[str | Path]:
        settings = [f"{name}={value}" for name, value in self._settings.items()]
        return [self.folder, str(self.port), str(self.transport_port), *settings]

    def _ready(self) -> bool:
        if not self.process.listens_on(self.port):
            return False
        try:
            health = self.call("GET", "/_cluster/health?wait_for_status=yellow&timeout=2s", ok=(200, 408, 503))
        except OSError:
            return False
        if "cluster_name" in health and health["cluster_name"] != str(self.folder):
            raise RuntimeError(f"port {self.port} is cluster {health['cluster_name']!r}, not ours")
        return health.get("status") in {"yellow", "green"} and not health.get("timed_out")


def _hits(text: str) -> list[tuple[str, bytes]]:
    """The pages of a search keep each source as it was sent; parsing and writing it again would change numbers."""
    decoder = json.JSONDecoder()
    mark, found, at = '"_source":', [], 0
    ids = iter([hit["_id"] for hit in json.loads(text).get("hits", {}).get("hits", [])])
    while (at := text.find(mark, at)) >= 0:
        begin = at + len(mark)
        _, at = decoder.raw_decode(text, begin)
        found.append((next(ids), text[begin:at].encode()))
    return found


def _compiled(name: str, classpath: Sequence[Path]) -> Path:
    """The folder of the class, compiled once for each text of its source."""
    source = _SOURCES / f"{name}.java"
    folder = cache_folder() / "classes" / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    if not (folder / f"{name}.class").exists():
        draft = folder.with_name(f"{folder.name}-{uuid.uuid4().hex[:8]}")
        command: list[str | Path] = [
            *(java(), "-jar", jars(COMPILER)[0], "-21", "-proc:none", "-nowarn"),
            *("-cp", ":".join(str(path) for path in classpath), "-d", draft, source),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise RuntimeError(f"{source.name} was not compiled\n{done.stdout}\n{done.stderr}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.rename(folder)
        except OSError:  # another process was quicker
            shutil.rmtree(draft, ignore_errors=True)
    return folder

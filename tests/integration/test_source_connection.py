"""Connecting: settings that hold, errors that say what to do, and no secret in any of them."""

from __future__ import annotations

import asyncio
import shutil
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from service.domain.errors import Permanent, RowferryError, Transient, chain
from tests.integration.source_cases import connected, datasource, source
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.waiting import until
from workers.sources.budget import ConnectionBudget
from workers.sources.checks import check_datasource
from workers.sources.connection import PINNED, connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PEM_UNENCRYPTED = (
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)
SECRET = "the-secret-that-nobody-shows"


@pytest.mark.parametrize(
    ("changes", "kind", "code"),
    [
        ({"user": "nobody_like_that", "password": SECRET}, Permanent, "authentication_failed"),
        ({"database": "no_such_database"}, Permanent, "database_unknown"),
        ({"port": 0}, Transient, "source_unreachable"),
        ({"host": "host.invalid"}, Transient, "source_unreachable"),
        ({"tls_mode": "require"}, Permanent, "tls_failed"),
        ({"properties": {"work_mem": "much"}}, Permanent, "datasource_properties"),
        ({"properties": {"no_such_setting": "1"}}, Permanent, "datasource_properties"),
    ],
)
async def test_what_goes_wrong_while_connecting_has_a_code_and_a_remedy(
    database: str, changes: dict, kind: type[RowferryError], code: str
) -> None:
    if changes.get("port") == 0:
        changes = {"port": free_port()}
    async with source(database, "t", store=datasource(database, **changes)) as made:
        with pytest.raises(kind) as caught:
            await made.inspect()
    assert caught.value.code == code
    assert caught.value.hint
    assert SECRET not in "".join(repr(link) + str(link) for link in chain(caught.value))


async def test_a_wrong_password_is_permanent_and_not_shown(database: str, postgres_server) -> None:
    await postgres_server.create_user("careful", "the right one")
    async with source(database, "t", store=datasource(database, user="careful", password=SECRET)) as made:
        with pytest.raises(Permanent) as caught:
            await made.inspect()
    assert caught.value.code == "authentication_failed"
    assert SECRET not in "".join(repr(link) + str(link) for link in chain(caught.value))


async def test_the_environment_of_the_service_gives_no_password(
    database: str, postgres_server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await postgres_server.create_user("careful", "the right one")
    monkeypatch.setenv("PGPASSWORD", "the right one")
    async with source(database, "t", store=datasource(database, user="careful", password=None)) as made:
        with pytest.raises(Permanent) as caught:
            await made.inspect()
    assert caught.value.code == "authentication_failed"


@pytest.mark.parametrize("tls_mode", ["disable", "prefer"])
async def test_a_session_is_pinned_read_only_and_named(database: str, tls_mode: str) -> None:
    properties = {"statement_timeout": "0", "DateStyle": "German", "application_name": "somebody", "work_mem": "6MB"}
    connection = await connect(datasource(database, tls_mode=tls_mode, properties=properties), "rowferry job-1 split-0")
    try:
        for name, value in PINNED.items():
            assert await connection.fetchval("SELECT setting FROM pg_settings WHERE name = $1", name) == value
        assert await connection.fetchval("SHOW application_name") == "rowferry job-1 split-0"
        assert await connection.fetchval("SHOW work_mem") == "6MB"
        with pytest.raises(Exception, match="read-only"):
            await connection.execute("CREATE TABLE t (i int)")
        with pytest.raises(Exception, match="statement timeout"):
            await connection.execute("SELECT pg_sleep(3)")
    finally:
        await connection.close()


async def test_a_pooler_that_ignores_settings_is_noticed(database: str) -> None:
    """A stand-in for one: it passes everything on but the start-up settings."""
    store = datasource(database)
    pipes: list[asyncio.Task[None]] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = struct.unpack("!I", await reader.readexactly(4))[0]
        fields = (await reader.readexactly(length - 4))[4:].rstrip(b"\0").split(b"\0")
        settings = dict(zip(fields[::2], fields[1::2], strict=True))
        kept = b"".join(name + b"\0" + settings[name] + b"\0" for name in (b"user", b"database")) + b"\0"
        server_reader, server_writer = await asyncio.open_connection(store.host, store.port)
        server_writer.write(struct.pack("!II", len(kept) + 8, 196608) + kept)
        pipes.extend(
            (asyncio.create_task(pipe(reader, server_writer)), asyncio.create_task(pipe(server_reader, writer)))
        )

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as pooler:
        port = pooler.sockets[0].getsockname()[1]
        with pytest.raises(Permanent, match="TimeZone") as caught:
            await connect(datasource(database, port=port), "rowferry test")
        assert caught.value.code == "pooled_connection"
        await asyncio.wait(pipes, timeout=5)


def debian_binaries() -> list[Path]:
    return sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.fixture
async def tls_server() -> AsyncIterator[tuple[PostgresServer, str]]:
    """A server that speaks TLS, where a build with OpenSSL is installed, and the certificate of its authority."""
    debian = debian_binaries()
    if not debian:
        pytest.skip("needs a PostgreSQL built with OpenSSL, such as Debian's")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROWFERRY_TEST_POSTGRES_BIN", str(debian[-1]))
        server = PostgresServer()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    async with server:
        files = {"server.crt": certificate, "server.key": key.private_bytes(*PEM_UNENCRYPTED)}
        for file, content in files.items():
            path = server.data / file
            path.write_bytes(content)
            path.chmod(0o600)
            shutil.chown(path, (server.data / "PG_VERSION").owner())
        async with connected(server.dsn()) as connection:
            await connection.execute("ALTER SYSTEM SET ssl = on")
        server.restart()
        yield server, certificate.decode()


async def test_tls_modes_mean_what_they_mean_to_libpq(tls_server: tuple[PostgresServer, str]) -> None:
    server, authority = tls_server
    encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    for mode, ca, host, expected in (
        ("disable", None, "127.0.0.1", False),
        ("prefer", None, "127.0.0.1", True),
        ("require", None, "127.0.0.1", True),
        ("require", authority, "127.0.0.1", True),
        ("verify-ca", authority, "127.0.0.1", True),
        ("verify-ca", None, "127.0.0.1", "tls_failed"),
        ("verify-full", authority, "127.0.0.1", "tls_failed"),
        ("verify-full", "nonsense", "127.0.0.1", "tls_failed"),
        # The name of the certificate, at the address that was checked.
        ("verify-full", authority, "localhost", True),
        ("verify-full", authority, "elsewhere.example", "tls_failed"),
    ):
        store = datasource(server.dsn(), tls_mode=mode, tls_ca=ca, host=host)
        if isinstance(expected, str):
            with pytest.raises(Permanent) as caught:
                await connect(store, "rowferry test", at=["127.0.0.1"])
            assert caught.value.code == expected
            continue
        connection = await connect(store, "rowferry test", at=["127.0.0.1"])
        assert await connection.fetchval(encrypted) is expected
        await connection.close()


async def test_a_frozen_server_is_left_alone_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.sources.connection.ANSWER_MARGIN_SECONDS", 0.2)
    monkeypatch.setattr("workers.sources.session.ANSWER_MARGIN_SECONDS", 0.2)
    async with PostgresServer() as server:
        async with connected(server.dsn()) as other:
            await other.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        async with source(server.dsn(), "t") as made:
            reader = made.reader()
            await reader.read(None, None)
            server.freeze()
            try:
                for asked in (reader.read(None, None), made.now()):
                    with pytest.raises(Transient) as caught:
                        async with asyncio.timeout(15):
                            await asked
                    assert caught.value.code == "source_unreachable"
            finally:
                server.thaw()
            assert len((await reader.read(None, None)).values) == 1


async def test_a_refused_destination_connects_nowhere(database: str) -> None:
    async def guard(host: str, port: int) -> list[str]:
        raise Permanent("destination_refused", f"{host}:{port} is not allowed")

    with pytest.raises(Permanent) as caught:
        await check_datasource(datasource(database), connections=ConnectionBudget(), guard=guard)
    assert caught.value.code == "destination_refused"


async def test_a_datasource_is_looked_at(database: str, postgres_server) -> None:
    budget = ConnectionBudget()
    codes = {finding.code for finding in await check_datasource(datasource(database), connections=budget)}
    assert codes == {"server_version", "role_too_powerful"}
    await postgres_server.create_user("careful", "the right one")
    plain = datasource(database, user="careful", password="the right one")
    codes = {finding.code for finding in await check_datasource(plain, connections=budget)}
    assert codes == {"server_version", "holders_not_visible"}
    assert budget.held(plain) == 0


async def test_two_jobs_share_one_connection_by_turns(database: str) -> None:
    budget = ConnectionBudget(1)
    said: list[bool] = []
    async with connected(database) as other:
        await other.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)")
        async with source(database, "t", connections=budget) as one, source(database, "t", connections=budget) as two:
            two._session._waiting = said.append
            for after in range(0, 100, 10):
                pages = await asyncio.gather(
                    *(made.reader().read((str(after),), None, max_rows=10) for made in (one, two))
                )
                assert [len(page.values) for page in pages] == [10, 10]
            assert said[:2] == [True, False]
            count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rowferry test'"
            await until(lambda: _is_one(other, count), 5, "no more than one connection is open")
    assert budget.held(datasource(database)) == 0


async def _is_one(connection, query: str) -> bool:
    return await connection.fetchval(query) == 1


async def test_no_permission_is_said_with_the_grant(database: str, postgres_server) -> None:
    await postgres_server.create_user("careful", "the right one")
    async with connected(database) as other:
        await other.execute("CREATE TABLE t (id int PRIMARY KEY)")
    async with source(database, "t", store=datasource(database, user="careful", password="the right one")) as made:
        errors = [finding for finding in (await made.inspect()).findings if finding.severity == "error"]
    assert [(finding.code, "GRANT SELECT" in finding.hint) for finding in errors] == [("permission_denied", True)]


async def test_row_security_fails_instead_of_leaving_rows_out(database: str, postgres_server) -> None:
    await postgres_server.create_user("careful", "the right one")
    async with connected(database) as other:
        await other.execute(
            "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2); GRANT SELECT ON t TO careful;"
            "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY one ON t USING (id = 1)"
        )
    async with source(database, "t", store=datasource(database, user="careful", password="the right one")) as made:
        errors = [finding for finding in (await made.inspect()).findings if finding.severity == "error"]
        assert [finding.code for finding in errors] == ["permission_denied"]
        assert "policy" in errors[0].hint
    async with connected(database) as other:
        await other.execute("DROP OWNED BY careful")


@pytest.mark.parametrize("at", ["the budget", "the connection"])
async def test_a_source_that_is_closed_while_it_connects_keeps_nothing(
    database: str, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget, reached, go = ConnectionBudget(1), asyncio.Event(), asyncio.Event()

    async def slowly(*arguments: Any, **more: Any) -> Any:
        reached.set()
        await go.wait()
        return await connect(*arguments, **more)

    monkeypatch.setattr("workers.sources.session.connect", slowly)
    taken = await budget.acquire(datasource(database)) if at == "the budget" else None
    async with source(database, "t", connections=budget) as made:
        asking = asyncio.create_task(made.now())
        await (until(lambda: budget.held(datasource(database)) == 1, 5, "asked") if taken else reached.wait())
        await asyncio.sleep(0)
    if taken is not None:
        taken.release()
    go.set()
    with pytest.raises(Transient) as caught:
        async with asyncio.timeout(10):
            await asking
    assert caught.value.code == "source_closed"
    assert budget.held(datasource(database)) == 0
    async with connected(database) as one:
        assert await one.fetchval(OTHERS) == 0


OTHERS = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = 'rowferry test' AND state IS NOT NULL"
)


async def test_a_cancellation_while_a_closed_source_connects_stays_one(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget, reached, never = ConnectionBudget(1), asyncio.Event(), asyncio.Event()

    async def hanging(*_: Any, **__: Any) -> None:
        reached.set()
        await never.wait()

    monkeypatch.setattr("workers.sources.session.connect", hanging)
    async with source(database, "t", connections=budget) as made:
        asking = asyncio.create_task(made.now())
        await reached.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert budget.held(datasource(database)) == 0

"""https beside http and alone, and a certificate that is renewed while the service runs."""

from __future__ import annotations

import signal
import socket
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.support.authority import Authority
from tests.support.ports import LOOPBACK, free_port
from tests.support.service import ServiceProcess
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path


class Listener:
    """Files of a certificate, and the settings that name them."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        self.certificate, self.key = folder / "cert.pem", folder / "key.pem"
        self.port = free_port()
        self.renew("first")

    @property
    def settings(self) -> dict[str, str]:
        return {
            "ROWFERRY_TLS_LISTEN": f"{LOOPBACK}:{self.port}",
            "ROWFERRY_TLS_CERT": str(self.certificate),
            "ROWFERRY_TLS_KEY": str(self.key),
        }

    def renew(self, name: str) -> None:
        for file, text in zip((self.certificate, self.key), self.authority.issue(name), strict=True):
            beside = file.with_suffix(".next")
            beside.write_text(text)
            beside.rename(file)

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.authority.pem)

    async def get(self, path: str, token: str | None = None) -> tuple[int, Any]:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        connector = aiohttp.TCPConnector(ssl=self.context(), force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector, headers=headers) as session,
            session.get(f"https://{LOOPBACK}:{self.port}{path}") as answer,
        ):
            return answer.status, await answer.json()

    def shown(self) -> str:
        """The name in the certificate that the next handshake gets."""
        with (
            socket.create_connection((LOOPBACK, self.port), timeout=10) as plain,
            self.context().wrap_socket(plain, server_hostname=LOOPBACK) as tls,
        ):
            found: Any = tls.getpeercert()
        return str(found["subject"][0][0][1])


@pytest.fixture
def tls(tmp_path: Path) -> Listener:
    return Listener(tmp_path)


async def test_https_stands_beside_http(control_database: str, tls: Listener) -> None:
    async with ServiceProcess(control_database, settings=tls.settings) as service, service.client() as client:
        await client.call("GET", "/v1/jobs", 200)
        assert await tls.get("/healthz") == (200, {"status": "ok"})
        assert await tls.get("/v1/jobs", service.admin_token) == (200, {"jobs": [], "next": None})
        assert (await tls.get("/v1/jobs"))[0] == 401
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"http://{LOOPBACK}:{tls.port}/healthz")


async def test_https_alone(control_database: str, tls: Listener) -> None:
    service = ServiceProcess(control_database, settings={**tls.settings, "ROWFERRY_LISTEN": "off"})
    try:
        service.launch()

        async def serving() -> bool:
            try:
                return (await tls.get("/readyz"))[0] == 200
            except aiohttp.ClientConnectorError:
                assert service.running, service.log_text()
                return False

        await until(serving, 30, "https serves")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, service.port), timeout=10)
        [started] = service.log_events("service_started")
        assert "http" not in started
        assert started["https"] == f"{LOOPBACK}:{tls.port}"
        assert await service.terminate() == 0
    finally:
        service.close()


async def test_a_renewed_certificate_is_shown_without_a_restart(control_database: str, tls: Listener) -> None:
    async with ServiceProcess(control_database, settings=tls.settings) as service:
        assert tls.shown() == "first"
        tls.renew("second")
        service.process.send(signal.SIGHUP)
        await until(lambda: tls.shown() == "second", 10, "the new certificate")
        # Half of a pair changes nothing, and is told.
        right = tls.certificate.read_text()
        tls.certificate.write_text(tls.authority.issue("third")[0])
        service.process.send(signal.SIGHUP)
        await until(lambda: service.log_events("tls_not_reloaded"), 10, "the refusal in the log")
        assert tls.shown() == "second"
        tls.certificate.write_text(right)
        tls.renew("fourth")
        service.process.send(signal.SIGHUP)
        await until(lambda: tls.shown() == "fourth", 10, "the next certificate")
        assert len(service.log_events("tls_reloaded")) == 2
        assert service.running


async def test_without_https_a_hangup_changes_nothing(control_database: str) -> None:
    async with ServiceProcess(control_database) as service, service.client() as client:
        service.process.send(signal.SIGHUP)
        for _ in range(3):
            await client.call("GET", "/healthz", 200)
        assert service.running


@pytest.mark.parametrize("spoilt", ["certificate", "key"])
async def test_files_that_are_no_pair_are_told_at_the_start(control_database: str, tls: Listener, spoilt: str) -> None:
    getattr(tls, spoilt).write_text(tls.authority.issue("another")[0 if spoilt == "certificate" else 1])
    service = ServiceProcess(control_database, settings=tls.settings)
    try:
        service.launch()
        await until(lambda: not service.running, 30, "it ends")
        assert service.process.exit_code == 1
        assert "ROWFERRY_TLS_CERT" in service.log_text()
    finally:
        service.close()

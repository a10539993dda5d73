"""docker-compose.yml, loaded by the library that compose itself is made of."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOADER = ROOT / "tests" / "support" / "compose"
SECRETS = ("ROWFERRY_ADMIN_TOKEN", "ROWFERRY_SECRET_KEY", "POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY")
GIVEN = {name: f"value-of-{name.lower()}" for name in SECRETS}

needs_go = pytest.mark.skipif(
    shutil.which("go") is None, reason="not run: Go is not on the PATH (an optional prerequisite, see README.md)"
)
# The first build fetches the loader and compiles it.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def loader() -> Path:
    """The ten lines of Go around compose's loader, built once into the user's cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rowferry"
    base.mkdir(parents=True, exist_ok=True)
    program = base / "compose-loader"
    environment = {**os.environ, "GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"}
    command = ["go", "build", "-o", str(program), "."]
    done = subprocess.run(command, cwd=LOADER, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


def _load(loader: Path, file: Path, given: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **given}
    return subprocess.run([loader, file], env=environment, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.fixture(scope="module")
def project(loader: Path) -> dict[str, Any]:
    """The file as compose understands it."""
    done = _load(loader, ROOT / "docker-compose.yml", GIVEN)
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


@needs_go
def test_it_has_the_service_and_what_it_talks_to(project: dict[str, Any]) -> None:
    services = project["services"]
    assert set(services) == {"rowferry", "postgres", "kafka", "s3"}
    assert services["rowferry"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name in ("postgres", "kafka", "s3"):
        assert services[name]["healthcheck"]["test"][0] == "CMD", name


@needs_go
def test_every_port_is_published_on_loopback_only(project: dict[str, Any]) -> None:
    for name, service in project["services"].items():
        assert service["ports"], name
        for port in service["ports"]:
            assert port["host_ip"] == "127.0.0.1", (name, port)


@needs_go
def test_what_is_written_survives_a_new_container(project: dict[str, Any]) -> None:
    for name, service in project["services"].items():
        named = [volume["source"] for volume in service["volumes"] if volume["type"] == "volume"]
        assert named, name
        assert set(named) <= set(project["volumes"]), name


@needs_go
def test_the_service_gets_settings_that_it_takes(project: dict[str, Any]) -> None:
    from config.settings import load

    environment = dict(project["services"]["rowferry"]["environment"])
    environment["ROWFERRY_SECRET_KEY"] = "0" * 43 + "="
    settings = load(environment)
    assert settings.listens_beyond_loopback
    assert settings.allowed_destinations is not None
    assert "value-of-postgres_password" in str(settings.database_url)
    for name in ("postgres", "kafka", "s3"):
        assert f"{name}={name}:" in environment["ROWFERRY_ALLOWED_DESTINATIONS"], name


@needs_go
@pytest.mark.parametrize("missing", SECRETS)
def test_a_secret_that_is_not_given_is_asked_for(loader: Path, missing: str) -> None:
    given = {name: value for name, value in GIVEN.items() if name != missing}
    done = _load(loader, ROOT / "docker-compose.yml", given)
    assert done.returncode == 1
    assert missing in done.stderr


@needs_go
def test_the_loader_refuses_a_misspelt_key(loader: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text((ROOT / "docker-compose.yml").read_text().replace("healthcheck:", "healtcheck:", 1))
    done = _load(loader, wrong, GIVEN)
    assert done.returncode == 1
    assert "healtcheck" in done.stderr


def test_no_secret_stands_in_the_files() -> None:
    example = (ROOT / ".env.example").read_text()
    for name in SECRETS:
        assert f"\n{name}=\n" in example, f"{name} is not asked for in .env.example"
    assert re.search(r"^\.env$", (ROOT / ".gitignore").read_text(), re.MULTILINE)


def test_the_image_runs_as_its_own_user_and_says_how_it_is() -> None:
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    assert len(stages) == 2
    last = stages[-1]
    assert re.search(r"^USER 10001$", last, re.MULTILINE)
    assert last.index("USER 10001") < last.index("ENTRYPOINT")
    assert "/healthz" in last[last.index("HEALTHCHECK") :]
    assert "pip install" not in last


def test_the_image_gets_every_package_and_nothing_else() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    ignored = {line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {f"!{name}" for name in names} == ignored
    for name in names:
        assert (ROOT / name).exists(), name
    packages = {one.parent.name for one in ROOT.glob("*/__init__.py")} - {"tests", "demo", "bench", "docs"}
    assert packages <= names

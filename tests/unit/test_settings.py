from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from config.parsing import Listen
from config.settings import Settings, SettingsError, load, names

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "a-token-that-nobody-guesses"
KEY = "k" * 40


def problems(environ, toml=None):
    with pytest.raises(SettingsError) as caught:
        load(environ, toml)
    return list(caught.value.problems)


def test_nothing_given_is_a_service_on_loopback() -> None:
    settings = load({})
    assert str(settings.listen) == "127.0.0.1:8080"
    assert (settings.engine, settings.max_runs, settings.memory_bytes) == ("local", 20, 512 * 1024**2)
    assert settings.admin_token is None
    assert not settings.listens_beyond_loopback


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "rowferry.toml"
    file.write_text('[rowferry]\nmax_runs = 3\nrate_limit = 7\nsecret_key = ["' + KEY + '"]\nmetrics_public = true\n')
    settings = load({"ROWFERRY_MAX_RUNS": "4"}, file)
    assert (settings.max_runs, settings.rate_limit, settings.metrics_public) == (4, 7.0, True)
    assert settings.secret_key == (KEY,)


def test_the_whole_name_in_lower_case_stands_in_the_file_too(tmp_path: Path) -> None:
    file = tmp_path / "rowferry.toml"
    file.write_text("[rowferry]\nrowferry_max_runs = 3\n")
    assert load({}, file).max_runs == 3
    file.write_text("[rowferry]\nrowferry_max_runs = 3\nmax_runs = 3\n")
    assert "stands twice" in problems({}, file)[0]


def test_secrets_come_from_files_and_lose_one_line_end(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    assert load({"ROWFERRY_ADMIN_TOKEN_FILE": str(file)}).admin_token == TOKEN
    assert "both set" in problems({"ROWFERRY_ADMIN_TOKEN_FILE": str(file), "ROWFERRY_ADMIN_TOKEN": TOKEN})[0]
    missing = problems({"ROWFERRY_ADMIN_TOKEN_FILE": str(tmp_path / "none")})[0]
    assert "ROWFERRY_ADMIN_TOKEN_FILE" in missing
    assert "read" in missing
    assert "unknown setting ROWFERRY_LISTEN_FILE" in problems({"ROWFERRY_LISTEN_FILE": str(file)})[0]


@pytest.mark.parametrize(
    ("name", "near"),
    [("ROWFERRY_LISTN", "ROWFERRY_LISTEN"), ("ROWFERRY_SECRETS_DIRS", "ROWFERRY_SECRETS_DIR"),
     ("ROWFERRY_ADMIN_TOKEN_FIL", "ROWFERRY_ADMIN_TOKEN_FILE")],
)  # fmt: skip
def test_an_unknown_setting_names_the_nearest(name: str, near: str) -> None:
    assert problems({name: "x"}) == [f"unknown setting {name}; did you mean {near}?"]


@pytest.mark.parametrize("name", ["ROWFERRY_SIREN_ELASTICSEARCH_INDEX", "ROWFERRY_X"])
def test_settings_of_what_does_not_exist_are_unknown(name: str) -> None:
    assert problems({name: "x"})[0].startswith(f"unknown setting {name}")


def test_what_references_read_and_tests_use_is_no_setting() -> None:
    load({"ROWFERRY_SECRET_SHOP": "x", "ROWFERRY_TEST_POSTGRES_BIN": "/x", "PATH": "/bin"})


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("ROWFERRY_LISTEN", "8080", "host:port"),
        ("ROWFERRY_LISTEN", "127.0.0.1:99999", "host:port"),
        ("ROWFERRY_MAX_RUNS", "many", "whole number from 1"),
        ("ROWFERRY_MAX_RUNS", "0", "whole number from 1"),
        ("ROWFERRY_MEMORY_BYTES", "1k", "bytes"),
        ("ROWFERRY_RATE_LIMIT", "-1", "number"),
        ("ROWFERRY_METRICS_PUBLIC", "maybe", "true or false"),
        ("ROWFERRY_ENGINE", "temporal", "not available yet"),
        ("ROWFERRY_ENGINE", "warp", "local"),
        ("ROWFERRY_LOG_LEVEL", "loud", "debug, info"),
        ("ROWFERRY_SECRETS_DIR", "/does/not/exist", "folder"),
        ("ROWFERRY_DATA_DIR", "/etc/passwd", "'/etc/passwd' is a file; name a folder"),
        ("ROWFERRY_DATA_DIR", "/etc/passwd/rows", "'/etc/passwd' is a file; name a folder"),
        ("ROWFERRY_TLS_CERT", "/does/not/exist", "file"),
        ("ROWFERRY_ALLOWED_DESTINATIONS", "10.0.0.0/8", "no kind"),
        ("ROWFERRY_ALLOWED_DESTINATIONS", "ftp=*", "unknown kind"),
    ],
)
def test_an_error_names_setting_value_and_remedy(name: str, value: str, remedy: str) -> None:
    (problem,) = problems({name: value})
    assert problem.startswith(f"{name} {value!r}: ")
    assert remedy in problem


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROWFERRY_ADMIN_TOKEN", "hunter2"),
        ("ROWFERRY_SECRET_KEY", "hunter2"),
        ("ROWFERRY_DATABASE_URL", "mysql://u:hunter2@h/d"),
    ],
)
def test_no_error_shows_a_secret(name: str, value: str) -> None:
    (problem,) = problems({name: value})
    assert problem.startswith(f"{name}: ")
    assert "hunter2" not in problem


def test_no_repr_shows_a_secret() -> None:
    given = {
        "ROWFERRY_ADMIN_TOKEN": TOKEN,
        "ROWFERRY_SECRET_KEY": f"{KEY},{KEY}2",
        "ROWFERRY_DATABASE_URL": "postgresql://u:hun%40ter2@h:1/d",
    }
    settings = load(given)
    assert not any(secret in repr(settings) for secret in (TOKEN, KEY, "hun"))
    assert set(settings.secrets()) == {TOKEN, KEY, KEY + "2", "hun@ter2"}


def test_every_problem_is_told_at_once() -> None:
    assert len(problems({"ROWFERRY_MAX_RUNS": "x", "ROWFERRY_RATE_LIMIT": "x", "ROWFERRY_NONSENSE_": "x"})) == 3


def test_listening_beyond_loopback_needs_destinations() -> None:
    (problem,) = problems({"ROWFERRY_LISTEN": "0.0.0.0:8080"})
    assert problem.startswith("ROWFERRY_ALLOWED_DESTINATIONS is required")
    load({"ROWFERRY_LISTEN": "0.0.0.0:8080", "ROWFERRY_ALLOWED_DESTINATIONS": "*"})
    load({"ROWFERRY_LISTEN": "[::1]:8080"})


def test_tls_is_complete_or_absent(tmp_path: Path) -> None:
    pem = tmp_path / "x.pem"
    pem.write_text("x")
    assert "_TLS_KEY" in problems({"ROWFERRY_TLS_LISTEN": "127.0.0.1:1", "ROWFERRY_TLS_CERT": str(pem)})[0]
    assert "no use alone" in problems({"ROWFERRY_TLS_KEY": str(pem)})[0]
    assert "nothing listens" in problems({"ROWFERRY_LISTEN": "off"})[0]
    tls = {"ROWFERRY_TLS_LISTEN": "127.0.0.1:1", "ROWFERRY_TLS_CERT": str(pem), "ROWFERRY_TLS_KEY": str(pem)}
    assert load({"ROWFERRY_LISTEN": "off", **tls}).listen is None


@pytest.mark.parametrize(
    ("text", "word"), [("[other]\n", "unknown section"), ("rowferry = 3\n", "not a section"), ("= x", "no TOML")]
)
def test_a_file_that_can_not_be_read_as_settings(tmp_path: Path, text: str, word: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(text)
    assert word in problems({}, file)[0]
    assert "No such file" in problems({}, tmp_path / "none.toml")[0]


def test_the_example_file_is_valid_and_names_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    import re
    from importlib.resources import files

    text = files("config").joinpath("rowferry.example.toml").read_text()
    named = {"ROWFERRY_" + name.upper() for name in re.findall(r"^#?\s?([a-z][a-z0-9_]+) = ", text, re.MULTILINE)}
    assert named == set(names())


def test_listen_addresses_know_who_can_reach_them() -> None:
    assert Listen("localhost", 1).loopback
    assert Listen("127.9.9.9", 1).loopback
    assert not Listen("0.0.0.0", 1).loopback
    assert not Listen("example.org", 1).loopback
    assert Settings(tls_listen=Listen("::", 1)).listens_beyond_loopback


def test_buckets_for_the_hosts_own_credentials_are_named_one_by_one() -> None:
    assert load({}).ambient_s3_buckets == frozenset()
    assert load({"ROWFERRY_AMBIENT_S3_BUCKETS": "rows, rows.of-2026"}).ambient_s3_buckets == {"rows", "rows.of-2026"}
    for wrong in ("*", "s3://rows", "rows,", "a"):
        assert "no bucket's name" in problems({"ROWFERRY_AMBIENT_S3_BUCKETS": wrong})[0]


def test_jwts_are_taken_by_keys_issuer_and_audience_together(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("{}")
    given = {"ROWFERRY_JWT_KEYS_FILE": str(file), "ROWFERRY_JWT_ISSUER": "i", "ROWFERRY_JWT_AUDIENCE": "a"}
    settings = load(given)
    assert (settings.jwt_keys_file, settings.jwt_account_claim, settings.jwt_role_claim) == (file, "account", "role")
    for name in given:
        assert name in problems({other: value for other, value in given.items() if other != name})[0]
    assert "can read" in problems({**given, "ROWFERRY_JWT_KEYS_FILE": str(tmp_path / "none")})[0]

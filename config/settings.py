"""The service's settings: environment variables `ROWFERRY_*`, or the same names in lower case under `[rowferry]` in a
TOML file; the environment wins. Read and checked once, at the start.

`_FILE` behind the name of a secret setting names a file that holds it. Beside settings the environment may hold
`ROWFERRY_SECRET_*` (what `env:` references read) and `ROWFERRY_TEST_*` (for the test suite); any other `ROWFERRY_*`
name is an error.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from config import parsing
from config.destinations import Destinations, loopback_only
from config.parsing import Invalid, Listen
from config.references import PREFIX as REFERENCE_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

PREFIX: Final = "ROWFERRY_"
# The private Postgres, the tests' own switches, and what references read, are not settings.
_FOREIGN: Final = ("ROWFERRY_TEST_", REFERENCE_PREFIX)


class SettingsError(Exception):
    """Everything that is wrong with the settings, one line each: setting, value (never a secret), remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


_LISTEN: Final = Listen("127.0.0.1", 8080)


def _twice_the_cores() -> int:
    return 2 * (os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting, typed; field names are the settings' names in lower case. The repr shows no secret."""

    database_url: str | None = field(default=None, repr=False)
    """The control database; None: a private one, where the `embedded` extra is installed."""
    listen: Listen | None = _LISTEN
    """Plain http; None is off."""
    tls_listen: Listen | None = None
    """https beside it; None is off."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    admin_token: str | None = field(default=None, repr=False)
    """A token with role admin in account `default`, for the first steps."""
    secret_key: tuple[str, ...] = field(default=(), repr=False)
    """Keys that encrypt stored secrets, newest first."""
    secrets_dir: Path | None = None
    """What `file:` references may read."""
    engine: str = "local"
    data_dir: Path = Path("data")
    """`system/` is the service's own; file jobs write below `files/<account>/` only."""
    allowed_destinations: Mapping[str, Any] | None = None
    """As given; `destinations` is what to ask."""
    ambient_s3_buckets: frozenset[str] = frozenset()
    """Buckets for which the host's own AWS credentials may be used."""
    max_runs: int = 20
    max_splits: int = field(default_factory=_twice_the_cores)
    memory_bytes: int = 512 * 1024**2
    """What pages and chunks in flight may hold together."""
    max_connections_per_datasource: int = 8
    shutdown_timeout_seconds: float = 20.0
    job_log_retention_days: int = 90
    log_retention_days: int = 30
    event_retention_days: int = 90
    metrics_public: bool = False
    """Metrics without a token."""
    rate_limit: float = 200.0
    """Requests a second per token."""
    jwt_keys_file: Path | None = None
    """Keys of an issuer of jwts: a JSON Web Key Set, or one public key as PEM; read again when it changes."""
    jwt_issuer: str | None = None
    """What `iss` must be."""
    jwt_audience: str | None = None
    """What `aud` must hold."""
    jwt_account_claim: str = "account"
    """The claim that names the account."""
    jwt_role_claim: str = "role"
    """The claim that names viewer, operator or admin, as a text or among a list."""
    dialect_wait_seconds: float = 10.0
    """How long stop, remove and abort wait for the end in the dialects."""
    dialect_delay_seconds: float = 10.0
    """Of jobs without an end whose keys may come late."""
    devo_clock_skew_seconds: float = 300.0
    """How far a signed request's time may be from ours."""
    devo_signed_over_http: bool = False
    """Take signed requests over plain http from other machines too."""
    devo_cors_origins: frozenset[str] = frozenset()
    """Whose pages may call the Devo dialect from a browser."""
    devo_s3_default_bucket: str | None = None
    """Of S3 destinations that name none."""
    devo_s3_endpoint_url: str | None = None
    """Of another store than AWS, for the S3 destinations of the Devo dialect."""
    devo_s3_object_bytes: int = 500_000_000
    """Of rows; then a new object begins."""
    devo_webhdfs: Mapping[str, str] = field(default_factory=dict)
    """The WebHDFS addresses of clusters, by their `fs.defaultFS`."""
    siren_elasticsearch_url: str | None = None
    """Where an ingestion of the Siren dialect goes that names no sink."""
    siren_elasticsearch_credential: str | None = None
    """The name of the credential that it goes there with, in the account of the job."""
    log_level: str = "info"
    log_format: str | None = None
    """None: console on a terminal, else JSON."""

    @property
    def destinations(self) -> Destinations:
        """The rules in force: loopback only, unless given."""
        return Destinations(loopback_only() if self.allowed_destinations is None else self.allowed_destinations)

    @property
    def listens_beyond_loopback(self) -> bool:
        """Whether other machines can reach the service."""
        return any(one is not None and not one.loopback for one in (self.listen, self.tls_listen))

    def secrets(self) -> Iterator[str]:
        """Every secret value, for the redaction of logs."""
        yield from self.secret_key
        yield from filter(None, (self.admin_token, parsing.url_password(self.database_url)))


_PARSERS: Final[Mapping[str, Callable[[object], Any]]] = {
    "database_url": parsing.postgres_url,
    "listen": parsing.listen,
    "tls_listen": parsing.listen,
    "tls_cert": parsing.readable_file,
    "tls_key": parsing.readable_file,
    "admin_token": parsing.token,
    "secret_key": parsing.secret_keys,
    "secrets_dir": parsing.folder,
    "engine": parsing.engine,
    "data_dir": parsing.place,
    "allowed_destinations": parsing.destinations,
    "ambient_s3_buckets": parsing.bucket_names,
    "max_runs": parsing.integer(1, 10_000),
    "max_splits": parsing.integer(1, 10_000),
    "memory_bytes": parsing.size(16 * 1024**2, 1024**4),
    "max_connections_per_datasource": parsing.integer(1, 10_000),
    "shutdown_timeout_seconds": parsing.number(0, 3600),
    "job_log_retention_days": parsing.integer(1, 36_500),
    "log_retention_days": parsing.integer(1, 36_500),
    "event_retention_days": parsing.integer(1, 36_500),
    "metrics_public": parsing.boolean,
    "rate_limit": parsing.number(1, 1_000_000),
    "jwt_keys_file": parsing.readable_file,
    "jwt_issuer": parsing.text,
    "jwt_audience": parsing.text,
    "jwt_account_claim": parsing.text,
    "jwt_role_claim": parsing.text,
    "dialect_wait_seconds": parsing.number(0, 60),
    "dialect_delay_seconds": parsing.number(0.1, 86_400),
    "devo_clock_skew_seconds": parsing.number(1, 86_400),
    "devo_signed_over_http": parsing.boolean,
    "devo_cors_origins": parsing.origins,
    "devo_s3_default_bucket": parsing.bucket_name,
    "devo_s3_endpoint_url": parsing.http_url,
    "devo_s3_object_bytes": parsing.size(1024, 1024**3),
    "devo_webhdfs": parsing.addresses_by_cluster,
    "siren_elasticsearch_url": parsing.http_url,
    "siren_elasticsearch_credential": parsing.text,
    "log_level": parsing.choice("debug", "info", "warning", "error"),
    "log_format": parsing.choice("json", "console"),
}
# Their values are in no message, and `_FILE` may stand behind their names.
_SECRET: Final = frozenset({"database_url", "admin_token", "secret_key"})


def names() -> dict[str, bool]:
    """Every setting's name in the environment, and whether it is a secret (then `_FILE` may stand behind it)."""
    return {PREFIX + one.name.upper(): one.name in _SECRET for one in fields(Settings)}


def load(environ: Mapping[str, str] | None = None, toml_path: str | Path | None = None) -> Settings:
    """The settings from `environ` (default: the process's) over those of a TOML file. Raises `SettingsError` with
    every problem at once; a value of a secret setting is in none of its lines."""
    problems: list[str] = []
    given = _from_toml(Path(toml_path), problems) if toml_path is not None else {}
    given |= _from_environment(os.environ if environ is None else environ, problems)
    given = _with_files(given, problems)
    values: dict[str, Any] = {}
    for one in fields(Settings):
        name = PREFIX + one.name.upper()
        if name not in given:
            continue
        try:
            values[one.name] = _PARSERS[one.name](given[name])
        except Invalid as error:
            shown = "" if one.name in _SECRET else f" {given[name]!r}"
            problems.append(f"{name}{shown}: {error}")
    if not problems:
        settings = Settings(**values)
        problems.extend(_together(settings))
        if not problems:
            return settings
    raise SettingsError(problems)


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in environ.items():
        if not name.startswith(PREFIX):
            continue
        if _known(name):
            found[name] = value
        elif not name.startswith(_FOREIGN):
            problems.append(_unknown(name))
    return found


def _from_toml(path: Path, problems: list[str]) -> dict[str, object]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"settings file {str(path)!r}: {error.strerror}; name a readable TOML file or none")
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"settings file {str(path)!r} is no TOML: {error}")
        return {}
    found: dict[str, object] = {}
    problems.extend(
        f"settings file {str(path)!r}: unknown section {section!r}; settings stand in [rowferry]"
        for section in document
        if section != "rowferry"
    )
    table = document.get("rowferry", {})
    if not isinstance(table, dict):
        problems.append(f"settings file {str(path)!r}: rowferry is not a section; write [rowferry]")
        return {}
    for key, value in table.items():
        name = (key if key.startswith("rowferry_") else f"rowferry_{key}").upper()
        if key != key.lower() or not _known(name):
            problems.append(_unknown(name) + f" (in {str(path)!r}, as {key!r}; names there are in lower case)")
        elif name in found:
            problems.append(f"{name} stands twice in {str(path)!r}; keep one")
        else:
            found[name] = value
    return found


def _with_files(given: Mapping[str, object], problems: list[str]) -> dict[str, object]:
    """Each `X_FILE` replaced by X with the file's content, without its last line end."""
    values = {name: value for name, value in given.items() if name in names()}
    for name, value in given.items():
        if name in names():
            continue
        setting = name.removesuffix("_FILE")
        if setting in values:
            problems.append(f"{setting} and {name} are both set; keep one")
            continue
        try:
            values[setting] = Path(str(value)).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except OSError as error:
            problems.append(f"{name} {str(value)!r}: {error.strerror}; name a file that the service can read")
        except ValueError:
            problems.append(f"{name} {str(value)!r}: the file is not UTF-8 text")
    return values


def _known(name: str) -> bool:
    known = names()
    return name in known or (name.endswith("_FILE") and known.get(name.removesuffix("_FILE"), False))


def _unknown(name: str) -> str:
    known = names()
    every = [*known, *(f"{one}_FILE" for one, secret in known.items() if secret)]
    near = parsing.nearest(name, every)
    return f"unknown setting {name}; " + (f"did you mean {near}?" if near else "remove it, or see `rowferry check`")


def _together(settings: Settings) -> Iterator[str]:
    """What only shows when all settings are known."""
    if settings.listen is None and settings.tls_listen is None:
        yield "ROWFERRY_LISTEN 'off': nothing listens; set ROWFERRY_TLS_LISTEN, or give ROWFERRY_LISTEN an address"
    tls = {
        "ROWFERRY_TLS_LISTEN": settings.tls_listen,
        "ROWFERRY_TLS_CERT": settings.tls_cert,
        "ROWFERRY_TLS_KEY": settings.tls_key,
    }
    missing = [name for name, value in tls.items() if value is None]
    if settings.tls_listen is not None and missing:
        yield f"ROWFERRY_TLS_LISTEN {str(settings.tls_listen)!r}: {' and '.join(missing)} must name PEM files"
    if settings.tls_listen is None and len(missing) < len(tls):
        yield "ROWFERRY_TLS_CERT and ROWFERRY_TLS_KEY are of no use alone; set ROWFERRY_TLS_LISTEN too, or remove them"
    jwt = {
        "ROWFERRY_JWT_KEYS_FILE": settings.jwt_keys_file,
        "ROWFERRY_JWT_ISSUER": settings.jwt_issuer,
        "ROWFERRY_JWT_AUDIENCE": settings.jwt_audience,
    }
    missing = [name for name, value in jwt.items() if value is None]
    if 0 < len(missing) < len(jwt):
        yield f"{' and '.join(missing)} must be set too: whose jwts are taken is said by keys, issuer and audience"
    if settings.listens_beyond_loopback and settings.allowed_destinations is None:
        beyond = next(str(one) for one in (settings.listen, settings.tls_listen) if one and not one.loopback)
        yield (
            f"ROWFERRY_ALLOWED_DESTINATIONS is required when listening beyond loopback ({beyond}): name where jobs may "
            "connect to, as postgres=10.0.0.0/8:5432;kafka=*.kafka.example:9092, or * for everything"
        )

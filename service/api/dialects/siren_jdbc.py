"""JDBC URLs of Postgres and their properties: what pgjdbc takes, as a datasource of ours, and back.

A property is understood (credentials, TLS, session settings), or has no meaning in a service that is no JDBC driver
(time-outs and caches of the driver: named in a warning), or is refused. pgjdbc's own defaults hold: `localhost`, 5432,
and a database that is called like its user.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from config.redaction import register
from service.api.dialects.siren_answers import invalid

if TYPE_CHECKING:
    from collections.abc import Mapping

DRIVER: Final = "org.postgresql.Driver"
_SCHEME: Final = "jdbc:postgresql:"
_WANTED: Final = "give jdbc:postgresql://host:port/database"
_MODES: Final = {mode: mode for mode in ("disable", "prefer", "require", "verify-ca", "verify-full")} | {
    # Never in clear where TLS can be had: nobody asks for less on purpose.
    "allow": "prefer",
}
_NON_VALIDATING: Final = "org.postgresql.ssl.nonvalidatingfactory"
_OF_THE_DRIVER: Final = frozenset(
    {
        *("adaptivefetch", "adaptivefetchmaximum", "adaptivefetchminimum", "allowencodingchanges", "applicationname"),
        *("assumeminserverversion", "autosave", "binarytransfer", "binarytransferdisable", "binarytransferenable"),
        *(
            "cancelsignaltimeout",
            "channelbinding",
            "cleanupsavepoints",
            "connecttimeout",
            "databasemetadatacachefields",
        ),
        *("databasemetadatacachefieldsmib", "defaultrowfetchsize", "disablecolumnsanitiser", "escapesyntaxcallmode"),
        *("groupstartupparameters", "gssencmode", "hidevalues", "hostrecheckseconds", "loadbalancehosts", "loggerfile"),
        *("loggerlevel", "logintimeout", "logservererrordetail", "logunclosedconnections", "maxresultbuffer"),
        *("maxsendbuffersize", "preferquerymode", "preparedstatementcachequeries", "preparedstatementcachesizemib"),
        *("preparethreshold", "protocolversion", "querytimeout", "quotereturningidentifiers", "readonly"),
        *("readonlymode", "receivebuffersize", "rewritebatchedinserts", "sendbuffersize", "socketfactory"),
        *("sockettimeout", "sslresponsetimeout", "stringtype", "targetservertype", "tcpkeepalive", "tcpnodelay"),
        *("unknownlength", "usespnego"),
    }
)
"""Of pgjdbc 42: how the driver itself works, never what it reads."""
_SETTING: Final = re.compile(r"\s*(?:-c\s*|--)([A-Za-z_][A-Za-z0-9_.]*)=((?:[^\\\s]|\\.)*)\s*", re.DOTALL)


def definition(jdbc: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A datasource as `/v1` takes it, and warnings about what has no effect here. `jdbc` holds texts under `url`, and
    optionally `username` and `password`, and a mapping of texts under `properties`. Raises Failure 400; no URL and no
    value of a property stands in any message."""
    address, given = _taken_apart(str(jdbc["url"]))
    properties = {**given, **{name.lower(): value for name, value in (jdbc.get("properties") or {}).items()}}
    user = jdbc.get("username") or properties.pop("user", None)
    if not user:
        raise invalid("jdbc.username is missing; give the role that reads")
    properties.pop("user", None)
    found: dict[str, Any] = {**address, "user": user}
    found["database"] = found["database"] or user
    password = jdbc.get("password", properties.get("password"))
    properties.pop("password", None)
    if password is not None:
        register(str(password))
        found["password"] = password
    if (mode := _tls_mode(properties)) is not None:
        found["tls"] = {"mode": mode}
    found["properties"] = _settings(properties.pop("options", ""))
    if properties.pop("currentschema", "public") != "public":
        raise invalid(
            "the property currentSchema can only be public: names without schema are always looked up there; write "
            "schema.table in queries"
        )
    return found, _without_effect(properties)


def url(definition: Mapping[str, Any]) -> str:
    """The URL of a stored datasource, without anything secret."""
    host = str(definition["host"])
    shown = f"[{host}]" if ":" in host else host
    database = quote(str(definition["database"]), safe="")
    mode = (definition.get("tls") or {}).get("mode", "prefer")
    asked = "" if mode == "prefer" else f"?sslmode={mode}"
    return f"jdbc:postgresql://{shown}:{definition['port']}/{database}{asked}"


def options(settings: Mapping[str, str]) -> str:
    """Session settings as pgjdbc's property `options`."""
    return " ".join(f"-c {name}={_escaped(value)}" for name, value in settings.items())


def _taken_apart(text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Host, port and database (empty: none), and the properties, their names in lower case."""
    if not text.startswith(_SCHEME):
        raise invalid(f"jdbc.url is not for PostgreSQL, the only source there is; {_WANTED}")
    rest, _, query = text.removeprefix(_SCHEME).partition("?")
    properties = _properties(query)
    authority, path = "", rest
    if rest.startswith("//"):
        authority, _, path = rest.removeprefix("//").partition("/")
    elif rest.startswith("/"):
        path = rest.removeprefix("/")
    if "@" in authority:
        register(unquote(authority.rpartition("@")[0].partition(":")[2]))
        raise invalid("jdbc.url holds a user in front of its host; give jdbc.username and jdbc.password")
    if "," in authority:
        raise invalid("jdbc.url names more than one host; give the one that is the primary")
    host, port = _host_and_port(authority)
    return {"host": host, "port": port, "database": _decoded(path, "database")}, properties


def _host_and_port(authority: str) -> tuple[str, int]:
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](?::(.*))?", authority, re.DOTALL)
    host, port = bracketed.groups() if bracketed else (authority.partition(":")[0], authority.partition(":")[2])
    if bracketed and not _is_v6(host):
        raise invalid(f"jdbc.url holds no IPv6 address in its brackets; {_WANTED}")
    if port and not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65_535):
        raise invalid("jdbc.url has a port that is no number from 1 to 65535")
    return _decoded(host, "host") or "localhost", int(port) if port else 5432


def _is_v6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text.partition("%")[0]).version == 6
    except ValueError:
        return False


def _properties(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, _, value = pair.partition("=")
        name = _decoded(name, "query").lower()
        if name == "password":
            register(unquote(value))
        if name in found:
            raise invalid(f"jdbc.url has the property {name[:40]!a} twice; give it once")
        found[name] = _decoded(value.replace("+", " "), "query")
    return found


def _decoded(text: str, part: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise invalid(f"jdbc.url: the {part} is not UTF-8 once its %-escapes are read") from None


def _tls_mode(properties: dict[str, str]) -> str | None:
    """As pgjdbc: `ssl` alone verifies, `sslmode` says how, the factory that validates nothing asks for encryption."""
    mode, wanted = properties.pop("sslmode", None), properties.pop("ssl", None)
    factory = properties.pop("sslfactory", "").lower()
    if factory not in {"", _NON_VALIDATING}:
        raise invalid("the property sslfactory can not be used: no classes are loaded here; give sslmode")
    if mode is not None:
        if mode.lower() not in _MODES:
            raise invalid(f"the property sslmode is none of {', '.join(_MODES)}")
        return _MODES[mode.lower()]
    if wanted is None:
        return None
    if wanted.lower() not in {"", "true", "false"}:
        raise invalid("the property ssl is neither true nor false")
    if wanted.lower() == "false":
        return "prefer"
    return "require" if factory else "verify-full"


def _settings(text: str) -> dict[str, str]:
    """`-c name=value …` as session settings."""
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = _SETTING.match(text, at)
        if match is None:
            raise invalid("the property options is not of the form '-c name=value', as often as needed")
        found[match[1]] = re.sub(r"\\(.)", r"\1", match[2], flags=re.DOTALL)
        at = match.end()
    return found


def _escaped(value: str) -> str:
    return re.sub(r"([\\\s])", r"\\\1", value)


def _without_effect(properties: Mapping[str, str]) -> list[str]:
    unknown = [name for name in properties if name not in _OF_THE_DRIVER]
    if unknown:
        raise invalid(
            f"the property {unknown[0][:40]!a} is not supported; understood are ssl, sslmode, currentSchema and "
            "options, and what tunes the JDBC driver alone has no effect"
        )
    if not properties:
        return []
    return [f"without effect, because no JDBC driver is at work here: {', '.join(properties)}"]

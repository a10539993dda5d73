"""JDBC URLs as pgjdbc reads them, and what becomes of their properties."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from config.redaction import REDACTOR
from service.api.dialects import siren_jdbc
from service.api.dialects.siren_answers import Failure
from service.api.models import DatasourceDefinition


def read(url: str, **more: Any) -> tuple[dict[str, Any], list[str]]:
    return siren_jdbc.definition({"url": url, "username": "ana", **more})


@pytest.mark.parametrize(
    ("url", "host", "port", "database"),
    [
        ("jdbc:postgresql://db.example:6432/shop", "db.example", 6432, "shop"),
        ("jdbc:postgresql://db.example/shop", "db.example", 5432, "shop"),
        ("jdbc:postgresql://db.example:/shop", "db.example", 5432, "shop"),
        ("jdbc:postgresql://db.example/", "db.example", 5432, "ana"),
        ("jdbc:postgresql://db.example", "db.example", 5432, "ana"),
        ("jdbc:postgresql://:5433/shop", "localhost", 5433, "shop"),
        ("jdbc:postgresql:shop", "localhost", 5432, "shop"),
        ("jdbc:postgresql:/", "localhost", 5432, "ana"),
        ("jdbc:postgresql:", "localhost", 5432, "ana"),
        ("jdbc:postgresql://[::1]:5433/shop", "::1", 5433, "shop"),
        ("jdbc:postgresql://[::1]/a%2Fb%20c", "::1", 5432, "a/b c"),
    ],
)
def test_host_port_and_database(url: str, host: str, port: int, database: str) -> None:
    found, warnings = read(url)
    assert (found["host"], found["port"], found["database"], found["user"]) == (host, port, database, "ana")
    assert (found["properties"], warnings) == ({}, [])
    assert "tls" not in found
    DatasourceDefinition.model_validate(found)


@pytest.mark.parametrize(
    ("properties", "mode"),
    [
        ("ssl=true", "verify-full"),
        ("ssl", "verify-full"),
        ("ssl=false", "prefer"),
        ("ssl=true&sslfactory=org.postgresql.ssl.NonValidatingFactory", "require"),
        ("ssl=true&sslmode=require", "require"),
        ("sslmode=disable", "disable"),
        ("sslmode=allow", "prefer"),
        ("sslmode=verify-ca", "verify-ca"),
        ("sslmode=VERIFY-FULL", "verify-full"),
    ],
)
def test_tls_as_pgjdbc_understands_it(properties: str, mode: str) -> None:
    assert read(f"jdbc:postgresql://h/d?{properties}")[0]["tls"] == {"mode": mode}
    given_apart = dict(pair.partition("=")[::2] for pair in properties.split("&"))
    assert read("jdbc:postgresql://h/d", properties=given_apart)[0]["tls"] == {"mode": mode}


def test_credentials_in_the_url_are_taken_and_known_to_the_redactor() -> None:
    found, _ = siren_jdbc.definition({"url": "jdbc:postgresql://h/d?user=bo&password=s3cr%26t-in-url"})
    assert (found["user"], found["password"]) == ("bo", "s3cr&t-in-url")
    assert "s3cr&t-in-url" not in REDACTOR.scrub("s3cr&t-in-url")
    apart, _ = read("jdbc:postgresql://h/d?user=bo&password=other-one", password="the-field-wins")
    assert (apart["user"], apart["password"]) == ("ana", "the-field-wins")


def test_session_settings_travel_in_options() -> None:
    given = r"jdbc:postgresql://h/d?options=-c%20work_mem=64MB%20-c%20a.b=x%5C%20y&currentSchema=public"
    found, warnings = read(given)
    assert (found["properties"], warnings) == ({"work_mem": "64MB", "a.b": "x y"}, [])
    shown = siren_jdbc.options(found["properties"])
    assert read("jdbc:postgresql://h/d", properties={"options": shown})[0]["properties"] == found["properties"]


def test_what_tunes_the_driver_is_named_as_without_effect() -> None:
    found, warnings = read(
        "jdbc:postgresql://h/d?connectTimeout=10&tcpKeepAlive=true", properties={"loginTimeout": "3"}
    )
    assert found["properties"] == {}
    assert warnings == [
        "without effect, because no JDBC driver is at work here: connecttimeout, tcpkeepalive, logintimeout"
    ]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("jdbc:mysql://h/d", "only source"),
        ("jdbc:postgresqlx://h/d", "only source"),
        ("postgresql://h/d", "only source"),
        ("", "only source"),
        ("jdbc:postgresql://a:1,b:2/d", "more than one host"),
        ("jdbc:postgresql://ana:hush-hush@h/d", "jdbc.password"),
        ("jdbc:postgresql://h:70000/d", "port"),
        ("jdbc:postgresql://h:x/d", "port"),
        ("jdbc:postgresql://[::x]/d", "IPv6"),
        ("jdbc:postgresql://h/%ff", "UTF-8"),
        ("jdbc:postgresql://h/d?sslmode=maybe", "sslmode"),
        ("jdbc:postgresql://h/d?ssl=maybe", "ssl"),
        ("jdbc:postgresql://h/d?sslfactory=com.evil.Factory", "sslfactory"),
        ("jdbc:postgresql://h/d?sslrootcert=/etc/passwd", "sslrootcert"),
        ("jdbc:postgresql://h/d?socketFactoryArg=x", "socketfactoryarg"),
        ("jdbc:postgresql://h/d?currentSchema=other", "currentSchema"),
        ("jdbc:postgresql://h/d?options=-c%20a", "options"),
        ("jdbc:postgresql://h/d?a=1&A=2", "twice"),
    ],
)
def test_what_can_not_be_is_named_and_the_url_is_not_shown(url: str, said: str) -> None:
    with pytest.raises(Failure, match=said) as caught:
        read(url)
    assert caught.value.status == 400
    assert "hush-hush" not in REDACTOR.scrub(str(caught.value))


@given(st.text(max_size=60), st.dictionaries(st.text(max_size=10), st.text(max_size=20), max_size=3))
@example("//h/d?options=-c a=\\", {})
@example("//[::1%25eth0]/d", {})
@example("//h:٣/d", {})
def test_whatever_is_given_is_understood_or_refused(rest: str, properties: dict[str, str]) -> None:
    for url in (rest, f"jdbc:postgresql:{rest}", f"jdbc:postgresql://h/d?{rest}"):
        try:
            found, _ = read(url, properties=properties)
        except Failure:
            continue
        assert found["host"]
        assert 0 < found["port"] <= 65_535
        assert found["database"]


@given(
    st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,9}", fullmatch=True), st.text(max_size=20), max_size=4),
    st.text(min_size=1, max_size=20),
)
def test_what_is_shown_is_what_was_stored(settings: dict[str, str], database: str) -> None:
    stored = {"host": "h", "port": 5432, "database": database, "tls": {"mode": "require"}}
    try:
        shown = siren_jdbc.url(stored)
    except UnicodeEncodeError:  # half of a surrogate pair: no body of a request holds one
        return
    found, _ = read(shown, properties={"options": siren_jdbc.options(settings)})
    assert (found["host"], found["port"], found["database"]) == ("h", 5432, database)
    assert (found["tls"], found["properties"]) == ({"mode": "require"}, settings)

"""Parts of the store that need no database."""

from __future__ import annotations

import uuid
from importlib import resources

import asyncpg
import pytest

from service.domain.errors import Permanent, Transient
from service.store.held import worst
from service.store.ids import uuid7
from service.store.pool import mapped
from service.store.sql import load, parse


def test_a_statement_is_found_by_its_name_without_its_comments() -> None:
    text = "-- about the file\n\n-- name: one\n-- why\nSELECT 1,\n    -- in between\n    2;\n\n-- name: two\nSELECT 2\n"
    assert parse(text) == {"one": "SELECT 1,\n    2", "two": "SELECT 2"}


@pytest.mark.parametrize(
    "text",
    ["SELECT 1", "-- name: a\nSELECT 1\n-- name: a\nSELECT 2", "-- name: a\n-- nothing\n-- name: b\nSELECT 1"],
)
def test_a_file_that_can_not_be_meant_so_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"name|twice|statement"):
        parse(text)


def test_every_file_of_queries_can_be_loaded() -> None:
    files = [f.name for f in resources.files("service.store").joinpath("queries").iterdir()]
    for name in files:
        assert load(name.removesuffix(".sql"))
    assert "leases.sql" in files


def test_ids_are_version_7_and_sort_by_time() -> None:
    ids = [uuid7() for _ in range(100)]
    assert {uuid.UUID(made).version for made in ids} == {7}
    assert {uuid.UUID(made).variant for made in ids} == {uuid.RFC_4122}
    assert len(set(ids)) == 100
    stamps = [made[:13] for made in ids]
    assert stamps == sorted(stamps)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectionRefusedError(), "store_unreachable"),
        (TimeoutError(), "store_unreachable"),
        (asyncpg.ConnectionDoesNotExistError("gone"), "store_unreachable"),
        (asyncpg.AdminShutdownError("shutting down"), "store_unreachable"),
        (asyncpg.CannotConnectNowError("starting up"), "store_unreachable"),
        (asyncpg.TooManyConnectionsError("sorry"), "store_unreachable"),
        (asyncpg.InterfaceError("connection is closed"), "store_unreachable"),
        (asyncpg.InternalClientError("release() called on a free connection holder"), "store_unreachable"),
        (asyncpg.DeadlockDetectedError("deadlock"), "store_busy"),
        (asyncpg.LockNotAvailableError("lock timeout"), "store_busy"),
    ],
)
def test_what_may_pass_is_transient(error: Exception, code: str) -> None:
    found = mapped(error)
    assert isinstance(found, Transient)
    assert found.code == code


@pytest.mark.parametrize("error", [asyncpg.InvalidPasswordError("no"), asyncpg.InvalidCatalogNameError("no")])
def test_what_somebody_has_to_mend_ends_the_start_and_is_waited_for_afterwards(error: Exception) -> None:
    assert isinstance(mapped(error, "postgresql://127.0.0.1/rowferry"), Permanent)
    later = mapped(error)
    assert isinstance(later, Transient)
    assert later.code == "store_refused"


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InterfaceError("the server expects 3 arguments for this query, 2 were passed"),
        asyncpg.DataError("invalid input for query argument $1"),
        asyncpg.UniqueViolationError("duplicate key"),
        asyncpg.PostgresSyntaxError("syntax error"),
        KeyError("x"),
    ],
)
def test_a_fault_of_ours_is_not_hidden(error: Exception) -> None:
    assert mapped(error) is None


def test_without_conditions_nothing_stands_beside_the_state() -> None:
    assert worst([]) == {"retrying": None, "waiting_for": None, "horizon": None, "lag": None}


def test_an_unknown_wait_is_shown_when_there_is_no_other() -> None:
    assert worst([{"waiting_for": "tide"}])["waiting_for"] == "tide"
    assert worst([{"waiting_for": "tide"}, {"waiting_for": "rate"}])["waiting_for"] == "rate"

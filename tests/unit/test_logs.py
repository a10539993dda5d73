from __future__ import annotations

import asyncio
import io
import json
import logging
import warnings
from typing import TYPE_CHECKING

import pytest
import structlog

from config import logs
from config.names import LogEvent
from config.redaction import Redactor

if TYPE_CHECKING:
    from collections.abc import Iterator


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    for handler in [one for one in root.handlers if one not in handlers]:
        root.removeHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_json_and_carries_what_is_bound() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream)
    with logs.bound_contextvars(account="default", job="j", run_id="r", split=3, epoch=7, request_id="q"):
        logs.get_logger("x").info(LogEvent.STEP_LEASED, seconds=0.5)
    logs.get_logger("x").info(LogEvent.STEP_PARKED)
    first, second = lines(stream)
    expected = {"event": "step_leased", "account": "default", "job": "j", "run_id": "r", "split": 3, "epoch": 7}
    assert expected.items() <= first.items()
    assert first["request_id"] == "q"
    assert first["timestamp"].endswith("Z")
    assert "account" not in second


def test_a_terminal_gets_text() -> None:
    stream = Terminal()
    logs.configure(stream=stream)
    logs.get_logger("x").info(LogEvent.MIGRATED, migration="0001")
    assert "migrated" in stream.getvalue()
    with pytest.raises(ValueError):
        json.loads(stream.getvalue())
    logs.configure(log_format="json", stream=stream)
    logs.get_logger("x").info(LogEvent.MIGRATED)
    assert json.loads(stream.getvalue().splitlines()[-1])["event"] == "migrated"


def test_other_peoples_loggers_and_warnings_take_the_same_way() -> None:
    stream = io.StringIO()
    logs.configure("warning", "json", stream=stream)
    with logs.bound_contextvars(request_id="q"):
        logging.getLogger("some.library").warning("lost %s of %d", "one", 2, extra={"broker": "b"})
    logging.getLogger("some.library").info("not at this level")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("careful", UserWarning, stacklevel=1)
    first, second = lines(stream)
    assert (first["event"], first["logger"], first["broker"]) == ("lost one of 2", "some.library", "b")
    assert first["request_id"] == "q"
    assert "careful" in second["event"]


def test_no_secret_reaches_stream_or_tap() -> None:
    stream, tapped, redactor = io.StringIO(), [], Redactor()
    redactor.register('hunter"2 ✓')
    logs.configure("debug", "json", stream=stream, tap=tapped.append, redactor=redactor)
    log = logs.get_logger("x")
    log.info('event with hunter"2 ✓', nested={"list": ['hunter"2 ✓'], 'hunter"2 ✓': 1}, password="anything")
    try:
        raise ValueError('bad password hunter"2 ✓ at postgresql://u:other@h/d')
    except ValueError:
        log.exception(LogEvent.HTTP_FAILED)
    logging.getLogger("lib").error("sent %s", {"sasl_password": 'hunter"2 ✓'})
    text = stream.getvalue() + str(tapped)
    assert "hunter" not in text
    assert "other" not in text
    assert "anything" not in text
    assert len(tapped) == 3
    assert "Traceback" in tapped[1]["exception"]


def test_configuring_twice_does_not_write_twice() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream)
    logs.configure(stream=stream)
    logs.get_logger("x").info(LogEvent.MIGRATED)
    assert len(lines(stream)) == 1


async def test_tasks_keep_their_own_context() -> None:
    stream = io.StringIO()
    logs.configure(stream=stream)

    async def work(split: int) -> None:
        with logs.bound_contextvars(split=split):
            await asyncio.sleep(0)
            logs.get_logger("x").info(LogEvent.STEP_LEASED, mine=split)

    await asyncio.gather(*(work(number) for number in range(5)))
    assert all(line["split"] == line["mine"] for line in lines(stream))

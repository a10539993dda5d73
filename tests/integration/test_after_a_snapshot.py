"""What is read of a job with options.snapshot outside its runs is of now, and says so wherever it is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from config.names import LogEvent
from tests.integration.api_cases import ApiCase, definition
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIMITS = {"dead_letters": {"max_rows": 5}, "max_row_bytes": 20_000, "chunk": {"rows": 100}}
MOMENT = "snapshot"
RETRIES = "SELECT FROM rowferry.steps WHERE kind = 'retry' AND state IN ('ready', 'leased')"


@pytest.fixture
async def api(control_database: str, database: str) -> AsyncIterator[ApiCase]:
    """With the datasource `shop`, and rows of which the tenth and the twentieth are too large."""
    async with ApiCase(control_database, database) as made:
        await made.shop()
        await made.rows(300)
        await made.source.execute("UPDATE orders SET note = repeat('x', 30000) WHERE id IN (10, 20)")
        await made.engine.start()
        yield made


async def delivered(api: ApiCase, *, snapshot: bool) -> dict[str, Any]:
    """The job `j`, which has delivered all rows but two; since then its source is another."""
    given = definition(sink={"kind": "file", "path": "j"}, options={MOMENT: snapshot, **LIMITS})
    await api.ok("POST", "/v1/jobs?start=true", given, 201)
    job: dict[str, Any] = await api.until_state("j", "successful", "error")
    assert (job["state"], job["totals"]["rows_dead"]) == ("successful", 2), job["errors"]
    await api.source.execute(
        "UPDATE orders SET note = 'later' WHERE id IN (10, 20, 30); DELETE FROM orders WHERE id = 40;"
        "INSERT INTO orders (id, note) VALUES (-1, 'later')"
    )
    return job


async def sent_again(api: ApiCase, origin: str, *ids: str) -> tuple[dict[str, Any], list[Any]]:
    """What a retry answers, and what stands in the log when it has ended."""
    with capture_logs() as lines:
        asked = await api.ok("POST", "/v1/jobs/j/dead-letters:retry", {"from": origin, "ids": list(ids)}, 202)

        async def over() -> bool:
            return not await api.control(RETRIES)

        await until(over, 20, "the retry's end")
    return asked, [one for one in lines if one["event"] == LogEvent.DEAD_LETTERS_OF_NOW]


async def test_dead_letters_of_one_moment_are_sent_as_they_are_now_and_everybody_is_told(api: ApiCase) -> None:
    job = await delivered(api, snapshot=True)
    assert "dead letters that are sent again from the source are as they are by then" in job["guarantee_note"]
    letters = (await api.ok("GET", "/v1/jobs/j/dead-letters"))["dead_letters"]
    asked, said = await sent_again(api, "payload", letters[0]["id"])
    assert (asked["dead_letters"], asked["notes"], said) == (1, [], []), "what was kept is of the moment"
    asked, said = await sent_again(api, "source", *(one["id"] for one in letters))
    (note,) = asked["notes"]
    assert "options.snapshot" in note
    assert "from payload" in note
    assert [(one["generation"], one["log_level"]) for one in said] == [(1, "warning")]
    assert said[0]["taken_at"].startswith(job["snapshot"]["taken_at"][:10])
    rows = b"".join(path.read_bytes() for path in sorted((api.folder / "files/default/j").glob("*.jsonl")))
    assert rows.count(b'"later"') == 2, "the two that were set aside, and none of those that were delivered before"


async def test_without_a_moment_there_is_nothing_to_be_told(api: ApiCase) -> None:
    await delivered(api, snapshot=False)
    letters = (await api.ok("GET", "/v1/jobs/j/dead-letters"))["dead_letters"]
    asked, said = await sent_again(api, "source", *(one["id"] for one in letters))
    assert (asked["notes"], said) == ([], [])
    assert "snapshot" not in str(await api.verified(checksums=True))
    given = definition("other", options={MOMENT: False})
    assert not of_code(await api.ok("POST", "/v1/jobs:preview", given), "preview_is_of_now")


def of_code(answer: dict[str, Any], code: str) -> list[dict[str, Any]]:
    return [one for one in answer["findings"] if one["code"] == code]


async def test_a_verification_names_the_moment_and_blames_the_sink_for_no_later_change(api: ApiCase) -> None:
    job = await delivered(api, snapshot=True)
    found = await api.verified(checksums=True)
    (note,) = [one for one in found["notes"] if "options.snapshot" in one]
    assert job["snapshot"]["taken_at"][:19] in note.replace(" ", "T")
    counts = {kind: found[kind] for kind in ("missing", "doubled", "foreign", "checksum", "gone")}
    assert (found["state"], set(counts.values())) == ("successful", {0}), found
    assert found["source_changed"] == 3, "one updated, one deleted, one inserted below the bound"


async def test_a_preview_says_that_a_run_reads_another_moment(api: ApiCase) -> None:
    given = definition(options={MOMENT: True, **LIMITS})
    await api.source.execute("UPDATE orders SET note = 'now'")
    seen = await api.ok("POST", "/v1/jobs:preview?limit=3", given)
    assert [row["value"].count('"now"') for row in seen["rows"]] == [1, 1, 1]
    (said,) = of_code(seen, "preview_is_of_now")
    assert (said["pointer"], said["severity"]) == ("/options/snapshot", "info")
    assert not of_code(await api.ok("POST", "/v1/jobs:validate", given), "preview_is_of_now")

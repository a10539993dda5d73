"""Files whose folders are templates: where they go, how they are found again, and what is never followed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from sinks import file_path, naming
from sinks.base import Batch, PositionConflict, SinkRefused, TargetGone
from tests.integration.test_file_sink import OWNER, cut, made

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sinks.base import Prepared


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "files" / "default"


@pytest.mark.parametrize("path", ["exports/{job}/{date:%Y/%m}", "{run}/x", "{date:%Y}-{generation}", "a/{job_id}"])
async def test_a_template_names_folders_and_everything_of_the_job_is_found_again(root: Path, path: str):
    sink = made(root, path=path)
    await sink.prepare_target()
    writer = sink.writer(OWNER)
    await writer.open()
    await writer.stage(Batch([b'{"id":1}']))
    first = await writer.prepare(cut(1, 1, 1))
    await writer.make_visible(first)
    await writer.close()
    folder = file_path.expand(path, OWNER, datetime.now(UTC))
    assert first.target.rpartition("/")[0] == folder
    assert [file.name for file in (root / folder).glob("*.jsonl*")] == [first.target.rpartition("/")[2]]

    later = sink.writer(replace(OWNER, epoch=OWNER.epoch + 1, run_id="r2"))
    await later.open()
    assert await later.visible([first]) is not None, "found by its whole name, whatever run it is"
    await later.stage(Batch([b'{"id":2}']))
    second = await later.prepare(cut(2, 2, 2))
    await later.make_visible(second)
    await later.close()

    async def chunks() -> AsyncIterator[Prepared]:
        for chunk in (first, second):
            yield chunk

    finisher = replace(OWNER, split="finish", epoch=1)
    await sink.finish(finisher, chunks())
    shared = root / file_path.shared(path, OWNER)
    manifest = json.loads((shared / naming.manifest_name(OWNER.job_id, OWNER.generation)).read_text())
    assert [entry["rows"] for entry in manifest["files"]] == [1, 1]
    assert naming.HIDDEN not in {name for _, names, _ in os.walk(root) for name in names}, "a temporary folder is left"

    name = naming.chunk_name(OWNER.job_id, OWNER.generation, "0", 9, "0" * 8, ".x")
    stranger = (root / second.target).with_name(name)
    stranger.write_text("x")
    with pytest.raises(PositionConflict) as conflict:
        await sink.finish(finisher, chunks())
    assert conflict.value.code == "output_unknown"


async def test_the_known_part_of_a_template_that_is_gone_is_not_made_again(root: Path):
    sink = made(root, path="exports/{date}")
    await sink.prepare_target()
    (root / "exports").rmdir()
    writer = sink.writer(OWNER)
    with pytest.raises(TargetGone):
        await writer.open()
    await writer.close()


async def test_a_link_below_a_template_is_never_followed(root: Path, tmp_path: Path):
    sink = made(root, path="exports/{job}/{run}")
    await sink.prepare_target()
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "exports" / OWNER.job_name).symlink_to(outside)
    writer = sink.writer(OWNER)
    with pytest.raises(SinkRefused) as refused:
        await writer.open()
    assert refused.value.code == "path_not_allowed"
    await writer.close()
    assert list(outside.iterdir()) == []

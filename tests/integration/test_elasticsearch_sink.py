"""The Elasticsearch sink against real OpenSearch and Elasticsearch nodes: documents, versions, indices, aliases."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from sinks.base import Batch, Guarantee, PositionConflict, SinkRefused, SinkUnavailable, TargetGone
from tests.support.search_rows import OWNER, batch, cut, deliver, documents, key, prepared, search_sink, values

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sinks.base import Prepared, Writer
    from tests.support.elasticsearch import SearchServer

NEXT = replace(OWNER, epoch=6)


@pytest.fixture(params=["opensearch_server", "elasticsearch_server"])
def server(request: pytest.FixtureRequest) -> SearchServer:
    found: SearchServer = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def index(server: SearchServer) -> str:
    return server.index_name()


async def found(server: SearchServer, index: str) -> dict[str, bytes]:
    return await asyncio.to_thread(server.documents, index)


async def opened(server: SearchServer, index: str, *, owner: Any = OWNER, **changes: Any) -> Writer:
    sink = search_sink(server.url, index, owner=owner, **changes)
    await sink.prepare_target()
    writer = sink.writer(owner)
    await writer.open()
    return writer


async def settled(*chunks: Prepared) -> AsyncIterator[Prepared]:
    for chunk in chunks:
        yield chunk


# -- documents --------------------------------------------------------------------------------------------------------


async def test_a_document_is_the_row_byte_for_byte_under_its_key(server: SearchServer, index: str):
    rows = [
        b'{"id":1,"amount":1.2500,"big":12345678901234567890.000000000000000001}',
        '{"id":2,"amount":3,"text":"räksmörgås 日本 \\u0001 \\"quoted\\" \\\\"}'.encode(),
    ]
    writer = await opened(server, index)
    await deliver(writer, 1, rows)
    await writer.close()
    assert await found(server, index) == {'["1"]': rows[0], '["2"]': rows[1]}


async def test_every_key_has_an_id_of_its_own(server: SearchServer, index: str):
    keys = [
        ["1", "a"],
        ["1", 'a"b'],
        ["1", "back\\slash"],
        ["ünïcödé", "\u0001\n\t"],
        ["", ""],
        ['["1","a"]'],
        ["x" * 506],  # with its brackets and quotes 510 bytes
        ["x" * 508],
        ["x" * 509],
        ["x" * 509 + "y"],
    ]
    ids = [json.dumps(one, ensure_ascii=False, separators=(",", ":")) for one in keys]
    rows = [b'{"n":%d}' % number for number in range(len(keys))]
    writer = await opened(server, index)
    await writer.stage(Batch(rows, ids=[one.encode() for one in ids]))
    receipt = await writer.make_visible(await writer.prepare(cut(1, len(rows))))
    await writer.close()
    assert receipt.rejected == ()
    seen = await found(server, index)
    assert sorted(seen.values()) == sorted(rows)
    assert {one: seen.get(one) for one in ids[:8]} == dict(zip(ids[:8], rows[:8], strict=True))
    assert sum(one.startswith("sha256:") for one in seen) == 2


async def test_a_column_routes_the_documents(server: SearchServer, index: str):
    mapping = {"settings": {"number_of_shards": 4}}
    writer = await opened(server, index, mapping=mapping, routing="region")
    rows = values(1, 40)
    routes: list[bytes | None] = [
        None if n % 4 == 0 else 'né"w'.encode() if n % 4 == 1 else b"south" for n in range(40)
    ]
    await writer.stage(batch(rows, routes))
    receipt = await writer.make_visible(await writer.prepare(cut(1, 40)))
    await writer.close()
    assert receipt.rejected == ()
    assert await found(server, index) == documents(rows)
    hits = server.call("GET", f"/{index}/_search?size=100")["hits"]["hits"]
    assert {hit["_id"]: hit.get("_routing") for hit in hits} == {
        key(number + 1): None if route is None else route.decode() for number, route in enumerate(routes)
    }


async def test_documents_take_the_pipeline(opensearch_server: SearchServer):
    """Maven's Elasticsearch has no processor at all: there, that it misses the pipeline is proof that it was asked."""
    server, index = opensearch_server, opensearch_server.index_name()
    server.call("PUT", f"/_ingest/pipeline/{index}", {"processors": [{"stamp": {"field": "stamped"}}]})
    writer = await opened(server, index, pipeline=index)
    await deliver(writer, 1, values(1, 30))
    await writer.close()
    seen = [json.loads(source) for source in (await found(server, index)).values()]
    assert sorted(row["id"] for row in seen if row["stamped"] is True) == list(range(1, 31))


async def test_a_chunk_goes_in_requests_of_a_bounded_size(server: SearchServer, index: str):
    rows = [b'{"id":%d,"text":"%s"}' % (number, b"x" * 3000) for number in range(4000)]
    writer = await opened(server, index)
    for start in range(0, len(rows), 500):
        await writer.stage(batch(rows[start : start + 500]))
    chunk = await writer.prepare(cut(1, len(rows)))
    await writer.make_visible(chunk)
    await writer.close()
    assert chunk.bytes > 12_000_000
    assert await found(server, index) == documents(rows)


# -- versions ---------------------------------------------------------------------------------------------------------


async def test_a_late_bulk_of_a_frozen_owner_never_wins(server: SearchServer, index: str):
    frozen = await opened(server, index)
    late = await prepared(frozen, 1, values(1, 50, "as it was"), version=1000)
    new = await opened(server, index, owner=NEXT)
    await deliver(new, 1, values(1, 40, "as it is now"), version=1001)
    receipt = await frozen.make_visible(late)
    assert receipt.rejected == ()
    # What nobody has written since is still put: the row was there when it was read.
    assert await found(server, index) == documents(values(1, 40, "as it is now") + values(41, 50, "as it was"))
    await frozen.close()
    await new.close()


async def test_two_owners_that_race_leave_the_later_version_whoever_is_first(server: SearchServer, index: str):
    frozen, new = await opened(server, index), await opened(server, index, owner=NEXT)
    for sequence in range(1, 6):
        old = await prepared(frozen, sequence, values(1, 2000, f"old {sequence}"))
        late = await prepared(new, sequence, values(1, 2000, f"new {sequence}"))
        await asyncio.gather(frozen.make_visible(old), new.make_visible(late))
        assert await found(server, index) == documents(values(1, 2000, f"new {sequence}"))
    await frozen.close()
    await new.close()


async def test_the_same_chunk_sent_again_changes_nothing_and_a_later_one_replaces(server: SearchServer, index: str):
    writer = await opened(server, index)
    await deliver(writer, 1, values(1, 20), version=7)
    await deliver(writer, 1, values(1, 20), version=7)
    hits = server.call("GET", f"/{index}/_search?version=true&size=100")["hits"]["hits"]
    assert {hit["_version"] for hit in hits} <= {7}
    await deliver(writer, 2, values(1, 10, "changed"), version=8)
    await writer.close()
    assert await found(server, index) == documents(values(1, 10, "changed") + values(11, 20))


async def test_of_two_rows_of_a_chunk_with_one_id_the_later_one_stays(server: SearchServer, index: str):
    """They have one version: it is enough that it is not smaller."""
    writer = await opened(server, index)
    await deliver(writer, 1, [*values(1, 5, "first"), *values(3, 3, "second")], version=7)
    assert await found(server, index) == documents([*values(1, 5, "first"), *values(3, 3, "second")])
    gone = Batch([b'{"id":9}', b"", b"", b'{"id":4,"text":"back"}'], None, [b'["9"]', b'["9"]', b'["4"]', b'["4"]'])
    await writer.stage(gone)
    await writer.make_visible(await writer.prepare(cut(2, 4, version=8)))
    await writer.close()
    left = documents([*values(1, 2, "first"), *values(3, 3, "second"), *values(5, 5, "first")])
    assert await found(server, index) == left | {key(4): b'{"id":4,"text":"back"}'}


# -- rows that are refused by themselves ------------------------------------------------------------------------------


async def test_a_row_that_does_not_fit_the_mapping_is_refused_alone(server: SearchServer, index: str):
    mapping = {"mappings": {"properties": {"n": {"type": "long"}}}}
    rows = [b'{"id":%d,"n":%s}' % (number, b'"many"' if number in {3, 7} else b"1") for number in range(10)]
    writer = await opened(server, index, mapping=mapping)
    receipt = await deliver(writer, 1, rows)
    await writer.close()
    assert [(one.id, one.code) for one in receipt.rejected] == [
        (key(3), "mapping_conflict"),
        (key(7), "mapping_conflict"),
    ]
    assert "failed to parse field [n] of type [long]" in receipt.rejected[0].reason
    assert await found(server, index) == documents([row for row in rows if b"many" not in row])


async def test_a_strict_mapping_refuses_unknown_fields_row_by_row(server: SearchServer, index: str):
    mapping = {"mappings": {"dynamic": "strict", "properties": {"id": {"type": "long"}}}}
    writer = await opened(server, index, mapping=mapping)
    receipt = await deliver(writer, 1, [b'{"id":1}', b'{"id":2,"surprise":true}'])
    await writer.close()
    assert [(one.id, one.code) for one in receipt.rejected] == [(key(2), "mapping_conflict")]


# -- the index --------------------------------------------------------------------------------------------------------


async def test_a_missing_index_is_made_with_mapping_and_settings_and_never_changed_again(
    server: SearchServer, index: str
):
    mapping = {
        "mappings": {"properties": {"id": {"type": "keyword"}}},
        "settings": {"number_of_shards": 3, "refresh_interval": "7s"},
    }
    first = await search_sink(server.url, index, mapping=mapping).prepare_target()
    assert await search_sink(server.url, index, mapping={"settings": {"number_of_shards": 1}}).prepare_target() == first
    there = server.call("GET", f"/{index}")[index]
    assert there["mappings"] == mapping["mappings"]
    assert there["settings"]["index"]["number_of_shards"] == "3"
    assert there["settings"]["index"]["refresh_interval"] == "7s"
    assert first == {"index_uuid": there["settings"]["index"]["uuid"]}


@pytest.mark.parametrize(
    "mapping",
    [
        {"mappings": {"properties": {"a": {"type": "nonsense"}}}},
        {"settings": {"number_of_nonsense": 3}},
        {"settings": {"number_of_shards": -1}},
    ],
)
async def test_a_mapping_that_can_not_be_is_told_with_the_servers_reason(
    server: SearchServer, index: str, mapping: dict[str, Any]
):
    with pytest.raises(SinkRefused) as caught:
        await search_sink(server.url, index, mapping=mapping).prepare_target()
    assert caught.value.code == "mapping_refused"
    assert "sink.mapping" in caught.value.message
    assert server.status("GET", f"/{index}") == 404


BROKEN = {
    "closed": ("POST", "_close", None, "index_closed", "_open"),
    "read-only": ("PUT", "_settings", {"index.blocks.read_only": True}, "index_read_only", "index.blocks.read_only"),
    "write-blocked": ("PUT", "_settings", {"index.blocks.write": True}, "index_read_only", "index.blocks.write"),
    "deleted": ("DELETE", None, None, "index_missing", "beginning"),
}


@pytest.mark.parametrize("how", BROKEN)
async def test_an_index_that_takes_no_documents_says_why_and_what_to_do(server: SearchServer, index: str, how: str):
    method, path, body, code, remedy = BROKEN[how]
    server.call("PUT", "/_cluster/settings", {"transient": {"action.auto_create_index": "false"}})
    try:
        sink = search_sink(server.url, index)
        await sink.prepare_target()
        sending, fresh = sink.writer(OWNER), sink.writer(NEXT)
        await sending.open()
        chunk = await prepared(sending, 1, values(1, 10))
        server.call(method, f"/{index}" + (f"/{path}" if path else ""), body)
        for step in (sending.make_visible(chunk), fresh.open()):
            with pytest.raises(SinkRefused) as caught:
                await step
            assert caught.value.code == code
            assert index in caught.value.message
            assert remedy in caught.value.message
            assert isinstance(caught.value, TargetGone) == (how == "deleted")
        findings = await sink.check()
        assert [one.code for one in findings] == (["index_will_be_created"] if how == "deleted" else [code])
        await sending.close()
        await fresh.close()
    finally:
        server.call("PUT", "/_cluster/settings", {"transient": {"action.auto_create_index": None}})


async def test_a_disk_that_is_too_full_is_waited_for(server: SearchServer, index: str):
    writer = await opened(server, index)
    chunk = await prepared(writer, 1, values(1, 10))
    server.call("PUT", f"/{index}/_settings", {"index.blocks.read_only_allow_delete": True})
    with pytest.raises(SinkUnavailable) as caught:
        await writer.make_visible(chunk)
    assert caught.value.code == "no_space"
    server.call("PUT", f"/{index}/_settings", {"index.blocks.read_only_allow_delete": None})
    await writer.make_visible(chunk)
    await writer.close()
    assert await found(server, index) == documents(values(1, 10))


async def test_an_index_that_was_made_anew_is_not_the_one_that_was_delivered_to(server: SearchServer, index: str):
    sink = search_sink(server.url, index)
    target = await sink.prepare_target()
    writer = sink.writer(OWNER)
    await writer.open()
    chunk = await prepared(writer, 1, values(1, 10))
    await writer.make_visible(chunk)
    await writer.close()
    server.call("DELETE", f"/{index}")
    server.call("PUT", f"/{index}")
    later = search_sink(server.url, index, target=target)
    writer = later.writer(NEXT)
    for step in (writer.open(), later.finish(NEXT, settled(chunk)), later.prepare_target()):
        with pytest.raises(TargetGone) as caught:
            await step
        assert caught.value.code == "index_recreated"
    await writer.close()


async def test_an_alias_is_written_through_where_it_says_which_index(server: SearchServer, index: str):
    for number in (1, 2):
        server.call("PUT", f"/{index}-{number}")
        server.call("POST", "/_aliases", {"actions": [{"add": {"index": f"{index}-{number}", "alias": index}}]})
    with pytest.raises(SinkRefused) as caught:
        await search_sink(server.url, index).prepare_target()
    assert caught.value.code == "index_ambiguous"
    server.call(
        "POST", "/_aliases", {"actions": [{"add": {"index": f"{index}-2", "alias": index, "is_write_index": True}}]}
    )
    sink = search_sink(server.url, index)
    assert await sink.prepare_target() == {"index_uuid": None}
    writer = sink.writer(OWNER)
    await writer.open()
    chunk = await prepared(writer, 1, values(1, 10))
    await writer.make_visible(chunk)
    await sink.finish(OWNER, settled(chunk))
    await writer.close()
    assert await found(server, f"{index}-2") == documents(values(1, 10))


async def test_a_data_stream_takes_no_versions_and_is_refused(server: SearchServer, index: str):
    template = {"index_patterns": [index], "data_stream": {}}
    if server.flavour == "elasticsearch":
        pytest.skip("data streams are a module that Maven's Elasticsearch comes without")
    server.call("PUT", f"/_index_template/{index}", template)
    server.call("PUT", f"/_data_stream/{index}")
    with pytest.raises(SinkRefused) as caught:
        await search_sink(server.url, index).prepare_target()
    assert caught.value.code == "data_stream_not_supported"


async def test_a_pipeline_that_is_not_there_is_told_before_and_while_sending(server: SearchServer, index: str):
    sink = search_sink(server.url, index, pipeline=f"{index}-p")
    with pytest.raises(SinkRefused) as caught:
        await sink.prepare_target()
    assert caught.value.code == "pipeline_missing"
    assert [(one.pointer, one.code) for one in await sink.check()] == [("/sink/pipeline", "pipeline_missing")]
    server.call("PUT", f"/_ingest/pipeline/{index}-p", {"processors": []})
    await sink.prepare_target()
    writer = sink.writer(OWNER)
    await writer.open()
    chunk = await prepared(writer, 1, values(1, 10))
    server.call("DELETE", f"/_ingest/pipeline/{index}-p")
    with pytest.raises(SinkRefused) as caught:
        await writer.make_visible(chunk)
    assert caught.value.code == "pipeline_missing"
    await writer.close()


# -- replace ----------------------------------------------------------------------------------------------------------


async def generation(server: SearchServer, index: str, number: int, rows: list[bytes], **changes: Any) -> Any:
    """A generation that is delivered and not finished: its sink and its chunk."""
    owner = replace(OWNER, generation=number)
    sink = search_sink(server.url, index, owner=owner, strategy="replace", **changes)
    await sink.prepare_target()
    writer = sink.writer(owner)
    await writer.open()
    chunk = await prepared(writer, 1, rows)
    await writer.make_visible(chunk)
    await writer.close()
    return sink, owner, chunk


def own_indices(server: SearchServer, index: str) -> list[str]:
    return sorted(server.call("GET", f"/{index}*"))


async def test_replace_shows_a_generation_when_all_of_it_is_there_and_removes_the_one_before(
    server: SearchServer, index: str
):
    mapping = {"mappings": {"_meta": {"team": "shop"}, "properties": {"id": {"type": "long"}}}}
    sink, owner, chunk = await generation(server, index, 1, values(1, 20), mapping=mapping)
    name = f"{index}-00c0ffee0001-g0001"
    assert (chunk.target, own_indices(server, index)) == (name, [name])
    assert server.status("GET", f"/{index}") == 404
    for _ in range(2):
        await sink.finish(owner, settled(chunk))
    assert await found(server, index) == documents(values(1, 20))
    meta = server.call("GET", f"/{name}")[name]["mappings"]["_meta"]
    assert meta == {"team": "shop", "rowferry": {"job_id": OWNER.job_id, "generation": 1}}

    sink, owner, chunk = await generation(server, index, 2, values(11, 15, "later"), mapping=mapping)
    assert await found(server, index) == documents(values(1, 20))
    for _ in range(2):
        await sink.finish(owner, settled(chunk))
    assert await found(server, index) == documents(values(11, 15, "later"))
    assert own_indices(server, index) == [f"{index}-00c0ffee0001-g0002"]


async def test_what_an_unfinished_generation_left_is_removed_by_the_next_that_ends_and_by_the_clean_up(
    server: SearchServer, index: str
):
    sink, owner, chunk = await generation(server, index, 1, values(1, 5))
    await sink.finish(owner, settled(chunk))
    await generation(server, index, 2, values(1, 3))
    sink, owner, chunk = await generation(server, index, 3, values(1, 9))
    await sink.finish(owner, settled(chunk))
    assert own_indices(server, index) == [f"{index}-00c0ffee0001-g0003"]
    await generation(server, index, 4, values(1, 3))
    stranger = f"{index}-00c0ffee0001-g0099"
    server.call("PUT", f"/{stranger}")
    for _ in range(2):
        await search_sink(server.url, index, strategy="replace").clean_up([OWNER])
    assert own_indices(server, index) == [f"{index}-00c0ffee0001-g0003", stranger]
    assert await found(server, index) == documents(values(1, 9))


async def test_an_index_that_somebody_else_put_behind_the_alias_keeps_its_documents(server: SearchServer, index: str):
    server.call("PUT", f"/old-{index}")
    server.call("POST", "/_aliases", {"actions": [{"add": {"index": f"old-{index}", "alias": index}}]})
    sink, owner, chunk = await generation(server, index, 1, values(1, 5))
    await sink.finish(owner, settled(chunk))
    assert list(server.call("GET", f"/{index}")) == [f"{index}-00c0ffee0001-g0001"]
    assert server.status("GET", f"/old-{index}") == 200


async def test_an_index_that_an_earlier_job_left_behind_the_alias_goes_with_it(server: SearchServer, index: str):
    """Its name tells that it was made for this alias and its mark that it was made by a job: nobody else keeps it."""
    earlier = replace(OWNER, job_id="0199a1b2-0000-7000-8000-00c0ffee0002", generation=4)
    sink = search_sink(server.url, index, owner=earlier, strategy="replace")
    await sink.prepare_target()
    writer = sink.writer(earlier)
    await writer.open()
    chunk = await prepared(writer, 1, values(1, 3, "of another job"))
    await writer.make_visible(chunk)
    await writer.close()
    await sink.finish(earlier, settled(chunk))
    assert own_indices(server, index) == [f"{index}-00c0ffee0002-g0004"]
    sink, owner, chunk = await generation(server, index, 1, values(1, 5))
    await sink.finish(owner, settled(chunk))
    assert own_indices(server, index) == [f"{index}-00c0ffee0001-g0001"]
    assert await found(server, index) == documents(values(1, 5))


async def test_replace_refuses_the_name_of_an_index_and_an_index_it_did_not_make(server: SearchServer, index: str):
    sink = search_sink(server.url, index, strategy="replace")
    server.call("PUT", f"/{index}-00c0ffee0001-g0003")
    with pytest.raises(PositionConflict) as conflict:
        await sink.prepare_target()
    assert conflict.value.code == "index_taken"
    server.call("PUT", f"/{index}")
    with pytest.raises(SinkRefused) as refused:
        await sink.prepare_target()
    assert refused.value.code == "alias_taken"
    assert [one.code for one in await sink.check()] == ["alias_taken"]


async def test_replace_does_not_show_a_generation_that_lacks_documents(server: SearchServer, index: str):
    sink, owner, chunk = await generation(server, index, 1, values(1, 20))
    await sink.finish(owner, settled(chunk))
    sink, owner, chunk = await generation(server, index, 2, values(1, 10, "later"))
    server.call("DELETE", f"/{chunk.target}/_doc/{'%5B%225%22%5D'}")
    with pytest.raises(PositionConflict) as caught:
        await sink.finish(owner, settled(chunk))
    assert caught.value.code == "output_missing"
    assert await found(server, index) == documents(values(1, 20))


async def test_an_old_finish_that_wakes_up_late_can_not_take_the_alias_back(server: SearchServer, index: str):
    first, owner, chunk = await generation(server, index, 1, values(1, 20))
    await first.finish(owner, settled(chunk))
    second, next_owner, next_chunk = await generation(server, index, 2, values(1, 10, "later"))
    await second.finish(next_owner, settled(next_chunk))
    with pytest.raises(TargetGone):
        await first.finish(owner, settled(chunk))
    assert await found(server, index) == documents(values(1, 10, "later"))


# -- what it says of itself -------------------------------------------------------------------------------------------


async def test_the_promise_is_idempotent_and_says_on_what_it_rests(server: SearchServer, index: str):
    for strategy in ("incremental", "replace"):
        promise = search_sink(server.url, index, strategy=strategy).promise()
        assert promise.guarantee is Guarantee.IDEMPOTENT
        assert "version" in promise.note
        assert ("alias" in promise.note) == (strategy == "replace")


async def test_check_of_a_good_target_says_what_will_be_made_and_makes_nothing(server: SearchServer, index: str):
    sink = search_sink(server.url, index)
    assert [(one.severity, one.code) for one in await sink.check()] == [("info", "index_will_be_created")]
    assert server.status("GET", f"/{index}") == 404
    await sink.prepare_target()
    assert await sink.check() == []


async def test_a_writer_sends_only_what_it_has_prepared_and_needs_keys_and_a_version(server: SearchServer, index: str):
    writer = await opened(server, index)
    with pytest.raises(ValueError, match=r"Batch\.ids"):
        await writer.stage(Batch(values(1, 2)))
    with pytest.raises(ValueError, match="version"):
        await writer.prepare(replace(cut(1, 2), version=None))
    chunk = await prepared(writer, 1, values(1, 2))
    with pytest.raises(SinkRefused, match="prepared last"):
        await writer.make_visible(replace(chunk, sequence=2))
    await writer.discard()
    with pytest.raises(SinkRefused):
        await writer.make_visible(chunk)
    await writer.close()
    assert await found(server, index) == {}

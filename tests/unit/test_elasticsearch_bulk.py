"""Bodies and answers of `_bulk`, and the keys that become ids."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.base import Batch, SinkRefused, SinkUnavailable
from sinks.elasticsearch_bulk import LONGEST_ID, REQUEST_ROWS, Rows, document_id, in_quotes, judge
from sinks.elasticsearch_errors import Names
from workers.chunks import row_ids
from workers.sources.base import Page
from workers.sources.page import decode_key

NAMES = Names("http://search:9200", "orders", "the anonymous user")
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=300)


def rows(*ids: str, routing: list[bytes | None] | None = None) -> Rows:
    made = Rows()
    made.add(Batch([b'{"n":1.50}'] * len(ids), routing, [one.encode() for one in ids]))
    return made


def item(status: int, kind: str = "", reason: str = "") -> dict[str, Any]:
    return {"index": {"status": status} | ({"error": {"type": kind, "reason": reason}} if kind else {})}


@given(TEXT)
def test_any_text_stands_in_quotes(text: str):
    assert json.loads(b'"' + in_quotes(text.encode()) + b'"') == text


@given(st.lists(TEXT, min_size=1, max_size=3))
def test_an_id_is_never_too_long_and_an_action_line_is_one_line(parts: list[str]):
    key = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    body = rows(key, routing=[parts[0].encode()]).body([0], 7)
    line, value, rest = body.split(b"\n")
    action = json.loads(line)["index"]
    assert (value, rest) == (b'{"n":1.50}', b"")
    assert len(action["_id"].encode()) <= LONGEST_ID
    assert action["_id"] == key or (action["_id"].startswith("sha256:") and len(key.encode()) > LONGEST_ID)
    assert action.get("routing", "") == parts[0]
    assert (action["version"], action["version_type"]) == (7, "external_gte")


def _copied(part: str) -> bytes:
    """A text as COPY writes it."""
    for raw, escaped in (("\\", "\\\\"), ("\b", "\\b"), ("\f", "\\f"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        part = part.replace(raw, escaped)
    return part.replace("\v", "\\v").encode()


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_the_id_of_a_row_is_its_key_as_json_whatever_is_in_it(keys: list[tuple[str, str]]):
    page = Page([b"{}"] * len(keys), [b"\t".join(map(_copied, key)) for key in keys], None, 2, None, True, decode_key)
    expected = [json.dumps(list(key), ensure_ascii=False, separators=(",", ":")).encode() for key in keys]
    assert row_ids(page, 0, len(keys)) == expected
    assert row_ids(page, 1, len(keys)) == expected[1:]


def test_keys_that_differ_only_in_where_their_columns_end_are_different_ids():
    assert document_id(b'["a","b"]') != document_id(b'["a,b"]')
    long = b'["' + b"x" * 600 + b'"]'
    assert document_id(long) == document_id(bytes(long))
    assert document_id(long) != document_id(long.replace(b"x", b"y", 1))


def test_parts_are_bounded_by_bytes_and_by_rows_and_hold_every_row_once():
    many = rows(*(f'["{number}"]' for number in range(REQUEST_ROWS * 2 + 1)))
    assert [len(part) for part in many.parts(1 << 40)] == [REQUEST_ROWS, REQUEST_ROWS, 1]
    small = list(many.parts(1000))
    assert [number for part in small for number in part] == list(range(REQUEST_ROWS * 2 + 1))
    assert max(len(many.body(part, 2**60)) for part in small) < 1100
    assert next(iter(many.parts(1))) == [0]
    assert list(Rows().parts()) == []


def test_409_is_done_429_comes_again_and_the_rest_of_4xx_is_the_rows_own_fault():
    held = rows('["a"]', '["b"]', '["c"]', '["d"]')
    answer = {
        "errors": True,
        "items": [
            item(201),
            item(409, "version_conflict_engine_exception", "newer"),
            item(429, "es_rejected_execution_exception", "queue full"),
            item(400, "mapper_parsing_exception", "no number"),
        ],
    }
    verdict = judge(NAMES, held, [0, 1, 2, 3], answer)
    assert (verdict.again, verdict.reason) == ([2], "queue full")
    assert [(one.id, one.code) for one in verdict.rejected] == [('["d"]', "mapping_conflict")]
    assert "no number" in verdict.rejected[0].reason


def test_a_row_that_lost_a_race_for_a_new_fields_mapping_comes_again_and_is_refused_in_the_end():
    reason = "mapper [amount] cannot be changed from type [long] to [float]"
    answer = {"errors": True, "items": [item(201), item(400, "illegal_argument_exception", reason)]}
    verdict = judge(NAMES, rows('["a"]', '["b"]'), [0, 1], answer)
    assert (verdict.again, verdict.rejected, verdict.reason) == ([1], [], reason)
    verdict = judge(NAMES, rows('["a"]', '["b"]'), [0, 1], answer, races_again=False)
    assert (verdict.again, [(one.id, one.code) for one in verdict.rejected]) == ([], [('["b"]', "mapping_conflict")])


@pytest.mark.parametrize(
    ("outcome", "kind", "code"),
    [
        (item(503, "unavailable_shards_exception", "primary"), SinkUnavailable, "sink_unavailable"),
        (item(500, "exception", "broken"), SinkUnavailable, "sink_unavailable"),
        (item(403, "cluster_block_exception", "FORBIDDEN/8"), SinkRefused, "index_read_only"),
        (item(429, "cluster_block_exception", "[TOO_MANY_REQUESTS/12/disk"), SinkUnavailable, "no_space"),
        (item(403, "security_exception", "no"), SinkRefused, "right_missing"),
        (item(404, "index_not_found_exception", "no such index"), SinkRefused, "index_missing"),
        (item(400, "index_closed_exception", "closed"), SinkRefused, "index_closed"),
        (
            item(400, "illegal_argument_exception", "pipeline with id [p] does not exist"),
            SinkRefused,
            "pipeline_missing",
        ),
    ],
)
def test_what_every_row_would_meet_is_no_rows_fault(outcome: dict[str, Any], kind: type[Exception], code: str):
    with pytest.raises(kind) as caught:
        judge(NAMES, rows('["a"]'), [0], {"errors": True, "items": [outcome]})
    assert getattr(caught.value, "code", None) == code


@pytest.mark.parametrize("answer", [{}, {"errors": False, "items": []}, {"errors": False, "items": [item(201)] * 2}])
def test_an_answer_without_an_item_for_each_row_is_not_taken_for_a_success(answer: dict[str, Any]):
    with pytest.raises(SinkUnavailable):
        judge(NAMES, rows('["a"]'), [0], answer)

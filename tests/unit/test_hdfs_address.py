"""Which NameNodes and folders a definition may name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sinks.specs import HdfsSinkSpec

GOOD: dict[str, Any] = {"kind": "hdfs", "url": "http://nn:9870", "path": "/exports/orders"}


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("http://nn:9870", ["http://nn:9870"]),
        ("http://nn", ["http://nn:9870"]),
        ("https://nn/", ["https://nn:9871"]),
        ("http://nn1:9870,nn2:9870", ["http://nn1:9870", "http://nn2:9870"]),
        ("http://nn1:50070, http://10.0.0.7", ["http://nn1:50070", "http://10.0.0.7:9870"]),
        ("swebhdfs://nn1,nn2:443", ["https://nn1:9871", "https://nn2:443"]),
        ("webhdfs://[fd00::1]:9870,[fd00::2]", ["http://[fd00::1]:9870", "http://[fd00::2]:9870"]),
    ],
)
def test_every_namenode_has_a_scheme_and_a_port(url: str, addresses: list[str]):
    assert HdfsSinkSpec.model_validate(GOOD | {"url": url}).addresses() == addresses


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nn:9870",
        "hdfs://nn:8020",
        "http://",
        "http://nn:0",
        "http://nn:70000",
        "http://nn:9870/webhdfs/v1",
        "http://nn?op=x",
        "http://ann:secret-of-ann@nn:9870",
        "http://nn,",
        "http://nn:9870,nn",
        "http://n n",
        "http://nn\r\nHost: other",
    ],
)
def test_what_is_no_list_of_namenodes_is_refused_without_showing_it(url: str):
    with pytest.raises(ValidationError) as caught:
        HdfsSinkSpec.model_validate(GOOD | {"url": url})
    [error] = caught.value.errors(include_input=False, include_url=False)
    assert error["loc"] == ("url",)
    assert ";" in error["msg"] or "," in error["msg"]
    assert "secret-of-ann" not in error["msg"]


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "exports/orders", "//x", "/a//b", "/a/", "/a/../b", "/a/.hidden", "/.reserved/raw", "/a:b", "/a\0b"),
        *("/a\nb", "/a/{date}", "/" + "x" * 256, "/" + "x/" * 600 + "x"),
    ],
)
def test_a_folder_is_absolute_and_plain(path: str):
    with pytest.raises(ValidationError) as caught:
        HdfsSinkSpec.model_validate(GOOD | {"path": path})
    [error] = caught.value.errors(include_input=False, include_url=False)
    assert error["loc"] == ("path",)
    assert "account" not in error["msg"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("user", value) for value in ("", "ann&doas=root", "a b", "1ann", "ä", "a" * 256)),
        *(("replication", value) for value in (0, -1, 513, "3", 1.5)),
        *(("overwrite", True), ("password", "x")),
    ],
)
def test_user_replication_and_unknown_fields(field: str, value: object):
    with pytest.raises(ValidationError) as caught:
        HdfsSinkSpec.model_validate(GOOD | {field: value})
    assert [error["loc"] for error in caught.value.errors()] == [(field,)]


def test_what_is_left_out():
    spec = HdfsSinkSpec.model_validate(GOOD)
    assert (spec.user, spec.replication) == ("rowferry", None)
    assert HdfsSinkSpec.model_validate(GOOD | {"user": "svc-etl$", "replication": 2}).user == "svc-etl$"

from __future__ import annotations

import pytest

from service.domain.folders import meet


def file(path: str) -> dict[str, str]:
    return {"kind": "file", "path": path}


def hdfs(path: str, url: str = "http://nn1:9870") -> dict[str, str]:
    return {"kind": "hdfs", "path": path, "url": url}


@pytest.mark.parametrize(
    ("one", "other", "yes"),
    [
        (file("out"), file("out"), True),
        (file("out/x"), file("out"), True),
        (file("out/x"), file("out/xy"), False),
        (hdfs("/a/b"), hdfs("/a/b/"), True),
        (hdfs("/a/b/c"), hdfs("/a/b"), True),
        (hdfs("/a/b"), hdfs("/a/bc"), False),
        (hdfs("/a"), hdfs("/a", "http://nn2:9870"), False),
        (hdfs("/a"), hdfs("/a", "http://nn2:9870,nn1:9870"), True),
        (hdfs("/a"), hdfs("/a", "webhdfs://NN1/"), True),
        (hdfs("/a", "https://nn1"), hdfs("/a", "http://nn2,swebhdfs://nn1:9871"), True),
        (hdfs("/a", "http://[fd00::1]"), hdfs("/a", "http://[fd00::1]:9870"), True),
        (file("a"), hdfs("a"), False),
        ({"kind": "s3", "bucket": "b", "prefix": "a"}, {"kind": "s3", "bucket": "b", "prefix": "a"}, False),
        ({"kind": "file"}, file("a"), False),
        ("nothing", file("a"), False),
    ],
)
def test_two_sinks_meet_in_a_folder_or_below_it(one: object, other: object, yes: bool):
    assert meet(one, other) is yes
    assert meet(other, one) is yes

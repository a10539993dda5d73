"""The prefix of an S3 sink: which templates may be, and what they become."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from sinks.base import Owner
from sinks.s3_prefix import check_prefix, common, common_folder, constant, expand, is_constant
from sinks.specs import S3SinkSpec

OWNER = Owner("default", "0199a1b2", "orders", "r7", 12, "0", 5)
NOW = datetime(2026, 3, 9, 23, 59, tzinfo=UTC)

TEMPLATES = {
    # template: expanded, what all objects of the job share, folder of the manifest, known without a job
    "": ("", "", "", ""),
    "a": ("a/", "a/", "a/", "a/"),
    "a/b/": ("a/b/", "a/b/", "a/b/", "a/b/"),
    "a/{job}": ("a/orders/", "a/orders/", "a/orders/", "a/"),
    "{job_id}": ("0199a1b2/", "0199a1b2/", "0199a1b2/", ""),
    "a/{job}/{date:%Y/%m/%d}/{run}": ("a/orders/2026/03/09/r7/", "a/orders/", "a/orders/", "a/"),
    "a/dt={date}/x": ("a/dt=2026-03-09/x/", "a/dt=", "a/", "a/"),
    "a/{date:hour=%H}": ("a/hour=23/", "a/", "a/", "a/"),
    "g{generation}-{date:%j}": ("g0012-068/", "g", "", ""),
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_becomes_a_folder_and_its_objects_are_found_again(template: str):
    folder, shared, whole, known = TEMPLATES[template]
    assert check_prefix(template) == template
    assert expand(template, OWNER, NOW) == folder
    assert common(template, OWNER) == shared
    assert common_folder(template, OWNER) == whole
    assert constant(template) == known
    assert is_constant(template) == (shared == folder)
    assert folder.startswith(shared)
    assert shared.startswith(whole)
    assert whole.startswith(known)


def test_the_date_is_utc_wherever_the_clock_is():
    assert expand("{date:%Y%m%d%H}", OWNER, NOW.astimezone(timezone(timedelta(hours=9)))) == "2026030923/"


def test_a_run_that_is_not_known_has_a_name_all_the_same():
    assert expand("{run}", Owner("a", "b", "c", "", 1, "0", 1), NOW) == "none/"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{table}", "unknown variable {table}"),
        ("{job:x}", "unknown variable {job:x}"),
        ("{}", "unknown variable {}"),
        ("{date:}", "unknown variable {date:}"),
        ("{date:%S}", "date code %S"),
        ("{date:%Y%}", "date code %"),
        ("{date:%Y//%m}", "empty part in its date"),
        ("{date:/%Y}", "empty part in its date"),
        ("a{job", "brace without its partner"),
        ("a}b", "brace without its partner"),
        ("/a", "begins with a slash"),
        ("a//b", "empty part"),
        ("a/../b", "'..'"),
        ("./a", "'.'"),
        ("/", "begins with a slash"),
        ("a\nb", "control character"),
        ("a\\b", "backslash"),
        ("\ud800", "Unicode"),
        ("ä" * 200, "400 bytes"),
    ],
)
def test_a_template_that_can_not_be_is_refused_with_its_remedy(template: str, said: str):
    with pytest.raises(ValueError, match="prefix") as caught:
        check_prefix(template)
    assert said in str(caught.value)
    assert ";" in str(caught.value)


def test_a_bad_prefix_is_told_at_its_place():
    with pytest.raises(ValidationError) as caught:
        S3SinkSpec.model_validate({"kind": "s3", "bucket": "rows", "prefix": "{when}"})
    assert caught.value.errors()[0]["loc"] == ("prefix",)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bucket", "s3://rows"),
        ("bucket", "rows/a"),
        ("bucket", "a"),
        ("bucket", "a..b"),
        ("bucket", "evil.example#"),
        ("endpoint_url", "store.example"),
        ("endpoint_url", "ftp://store.example"),
        ("endpoint_url", "https://user:hidden@store.example"),
        ("endpoint_url", "https://store.example/bucket"),
        ("endpoint_url", "https://store.example?x"),
        ("region", "US East"),
        ("access_key_id", "with blank"),
        ("storage_class", "cold"),
        ("encryption", {"algorithm": "rot13"}),
        ("encryption", {"algorithm": "AES256", "kms_key_id": "k"}),
        ("tags", {"": "x"}),
        ("tags", {"a&b": "x"}),
        ("tags", {str(number): "" for number in range(11)}),
        ("path_style", "yes"),
    ],
)
def test_other_fields_are_checked_before_anything_happens(field: str, value: object):
    with pytest.raises(ValidationError) as caught:
        S3SinkSpec.model_validate({"kind": "s3", "bucket": "rows", field: value})
    assert caught.value.errors()[0]["loc"][0] == field
    assert "hidden" not in str([one["msg"] for one in caught.value.errors()])


def test_what_is_good_is_taken():
    S3SinkSpec.model_validate(
        {
            "kind": "s3",
            "bucket": "rows.of-2026",
            "endpoint_url": "http://[::1]:9000/",
            "region": "eu-central-1",
            "storage_class": "GLACIER_IR",
            "encryption": {"algorithm": "aws:kms", "kms_key_id": "arn:aws:kms:eu-central-1:1:key/x"},
            "tags": {"team": "data", "kosten/stelle": "7 @ 8"},
        }
    )

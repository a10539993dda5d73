"""What a definition of the Elasticsearch sink may say."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from service.api.models import JobDefinition
from sinks.specs import ElasticsearchSinkSpec

GOOD = {"kind": "elasticsearch", "url": "https://search.example:9200", "index": "orders"}
JOB: dict[str, Any] = {"name": "a", "source": {"datasource": "shop", "table": "orders"}}


def test_a_url_may_have_a_path_and_loses_its_last_slash():
    assert ElasticsearchSinkSpec.model_validate({**GOOD, "url": "https://proxy/search/"}).url == "https://proxy/search"


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"url": "search:9200"}, "http://"),
        ({"url": "ftp://search"}, "http://"),
        ({"url": "http://"}, "http://"),
        ({"url": "http://search:99999"}, "http://"),
        ({"url": "http://search:9200 "}, "http://"),
        ({"url": "https://ana:hush@search"}, "username and password"),
        ({"url": "https://search?pretty"}, "remove"),
        ({"index": ""}, "1 to 200 bytes"),
        ({"index": "Orders"}, "no capital letter"),
        ({"index": "_orders"}, "does not begin"),
        ({"index": "orders*"}, "none of"),
        ({"index": "a,b"}, "none of"),
        ({"index": "<orders-{now/d}>"}, "none of"),
        ({"index": ".."}, "does not begin"),
        ({"index": "x" * 201}, "1 to 200 bytes"),
        ({"strategy": "append"}, "incremental"),
        ({"pipeline": ""}, "at least 1"),
        ({"mapping": {"properties": {}}}, 'below "mappings"'),
        ({"mapping": {"aliases": {}}}, "only"),
        ({"api_key": "k", "username": "ana", "password": "p"}, "stands alone"),
        ({"password": "p"}, "username"),
        ({"username": "ana"}, "password"),
        ({"ca": "no pem"}, "PEM"),
        ({"url": "http://search", "ca": None, "surprise": 1}, "Extra"),
    ],
)
def test_what_can_not_be_is_refused_with_its_remedy(change: dict[str, Any], remedy: str):
    with pytest.raises(ValidationError) as caught:
        ElasticsearchSinkSpec.model_validate(GOOD | change)
    assert remedy in str(caught.value.errors(include_input=False, include_url=False))
    assert "hush" not in str(caught.value.errors(include_input=False, include_url=False))


def test_a_user_whose_password_is_in_a_credential_is_fine():
    assert ElasticsearchSinkSpec.model_validate({**GOOD, "username": "ana", "credential": "search"}).password is None


@pytest.mark.parametrize("mode", ["incremental", "continuous"])
def test_replace_goes_only_with_modes_that_read_everything(mode: str):
    with pytest.raises(ValidationError, match="use mode full"):
        JobDefinition.model_validate({**JOB, "mode": mode, "sink": {**GOOD, "strategy": "replace"}})
    JobDefinition.model_validate({**JOB, "mode": mode, "sink": GOOD})
    JobDefinition.model_validate({**JOB, "mode": "full", "sink": {**GOOD, "strategy": "replace"}})

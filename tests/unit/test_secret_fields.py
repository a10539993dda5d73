from __future__ import annotations

import pytest

from service import secret_fields
from service.api.models import DatasourceDefinition, JobDefinition
from service.secret_fields import SecretRefused

NAMES = secret_fields.names_in(JobDefinition)
SECRET = "correct horse ✓"


def job(**security):
    given = {"protocol": "SASL_SSL", "mechanism": "PLAIN", "username": "ana", "password": SECRET, **security}
    sink = {"kind": "kafka", "bootstrap_servers": "a:9092", "topic": "t", "security": given}
    return {"name": "j", "source": {"datasource": "d", "table": "t"}, "sink": sink}


def stored():
    return secret_fields.split(JobDefinition.model_validate(job()))


def update(given):
    """As an update goes: keep, validate, look again."""
    spec, secrets = stored()
    merged, kept = secret_fields.keep(given, NAMES, stored=spec, secrets=secrets)
    new_spec, new_secrets = secret_fields.split(JobDefinition.model_validate(merged))
    secret_fields.check_kept(new_spec, spec, kept)
    return new_secrets


def test_the_secret_fields_of_a_job_are_known_from_its_models() -> None:
    assert {"file_password", "password", "private_key", "api_key", "secret_access_key", "session_token"} == NAMES


def test_a_definition_is_stored_without_its_secrets_and_answered_with_stars() -> None:
    spec, secrets = stored()
    assert secrets == {"/sink/security/password": SECRET}
    assert SECRET not in repr(spec)
    assert "password" not in spec["sink"]["security"]
    masked = secret_fields.mask(spec, list(secrets))
    assert masked["sink"]["security"]["password"] == "***"
    assert "password" not in spec["sink"]["security"], "the stored definition was changed"
    assert secret_fields.merge(spec, secrets)["sink"]["security"]["password"] == SECRET


def test_from_keeps_its_name_in_what_is_stored() -> None:
    given = job()
    given["source"]["time"] = {"column": "at", "from": "2026-01-01T00:00:00Z"}
    spec, _ = secret_fields.split(JobDefinition.model_validate(given))
    assert spec["source"]["time"] == {"column": "at", "from": "2026-01-01T00:00:00Z", "to": None}


@pytest.mark.parametrize("password", ["***", "absent"])
def test_stars_and_absence_keep_the_stored_secret(password: str) -> None:
    given = job(password=password)
    if password == "absent":
        del given["sink"]["security"]["password"]
    assert update(given) == {"/sink/security/password": SECRET}


def test_a_new_value_replaces_and_null_removes() -> None:
    assert update(job(password="another")) == {"/sink/security/password": "another"}
    assert update(job(password=None)) == {}


def test_an_object_that_is_left_out_takes_its_secrets_along() -> None:
    given = job()
    del given["sink"]["security"]
    assert update(given) == {}


@pytest.mark.parametrize("password", ["***", "absent"])
@pytest.mark.parametrize(
    ("where", "value"),
    [("bootstrap_servers", "evil:9092"), ("security/username", "eve"), ("security/protocol", "SASL_PLAINTEXT")],
)
def test_a_stored_secret_is_not_sent_to_another_endpoint(where: str, value: str, password: str) -> None:
    given = job(password=password)
    if password == "absent":
        del given["sink"]["security"]["password"]
    at = given["sink"]["security"] if where.startswith("security/") else given["sink"]
    at[where.rpartition("/")[2]] = value
    with pytest.raises(SecretRefused) as refused:
        update(given)
    assert (refused.value.code, refused.value.pointer) == ("secret_required", "/sink/security/password")
    assert SECRET not in str(refused.value)


def test_a_default_that_comes_back_is_a_change_too() -> None:
    spec, secrets = stored()
    given = job(password="***")
    del given["sink"]["security"]["protocol"]
    merged, kept = secret_fields.keep(given, NAMES, stored=spec, secrets=secrets)
    assert kept == ["/sink/security/password"]
    merged["sink"]["security"]["protocol"] = "PLAINTEXT"  # what the model would put there
    with pytest.raises(SecretRefused):
        secret_fields.check_kept(merged, spec, kept)


def test_stars_need_a_stored_secret() -> None:
    with pytest.raises(SecretRefused) as refused:
        secret_fields.keep(job(password="***"), NAMES)
    assert (refused.value.code, refused.value.pointer) == ("secret_required", "/sink/security/password")


@pytest.mark.parametrize("reference", ["env:ROWFERRY_SECRET_X", "file:x"])
def test_a_job_holds_no_reference(reference: str) -> None:
    _, secrets = secret_fields.split(JobDefinition.model_validate(job(password=reference)))
    with pytest.raises(SecretRefused) as refused:
        secret_fields.refuse_references(secrets)
    assert (refused.value.code, refused.value.pointer) == ("reference_not_allowed", "/sink/security/password")


def test_secrets_at_the_root_of_a_definition() -> None:
    names = secret_fields.names_in(DatasourceDefinition)
    assert names == {"password"}
    given = {"host": "h", "port": 1, "user": "u", "database": "d"}
    old = {**given, "database": "other"}
    merged, kept = secret_fields.keep(given, names, stored=old, secrets={"/password": SECRET})
    assert (merged["password"], kept) == (SECRET, ["/password"])
    with pytest.raises(SecretRefused):
        secret_fields.keep({**given, "port": 2}, names, stored=old, secrets={"/password": SECRET})


@pytest.mark.parametrize("changed", [{"datasource": "other"}, {"credentials": {"user": "eve"}}])
def test_a_password_for_one_datasource_is_not_sent_to_another_nor_as_somebody_else(changed: dict[str, object]) -> None:
    source = {"datasource": "d", "table": "t", "credentials": {"user": "ana", "password": SECRET}}
    given = {"name": "j", "source": source, "sink": {"kind": "donothing"}}
    spec, secrets = secret_fields.split(JobDefinition.model_validate(given))
    assert secrets == {"/source/credentials/password": SECRET}
    again = {**given, "source": {**source, "credentials": {"user": "ana"}}}
    assert secret_fields.keep(again, NAMES, stored=spec, secrets=secrets)[1] == ["/source/credentials/password"]
    with pytest.raises(SecretRefused, match=r"source\.credentials\.password"):
        secret_fields.keep({**again, "source": {**again["source"], **changed}}, NAMES, stored=spec, secrets=secrets)

"""Definitions that can not work: said by validate, refused or ended in error with what to do, and nothing is lost."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.acceptance.days import says, with_login
from tests.support.client import ApiError
from tests.support.kafka import KafkaServer
from tests.support.proxy import FaultProxy

if TYPE_CHECKING:
    from tests.acceptance.days import Days
    from tests.support.client import Json
    from tests.support.postgres import PostgresServer


async def test_an_unknown_datasource_is_refused_before_anything_is_stored(days: Days):
    spec = days.spec()
    says(days.findings(await days.api.validate(spec))["datasource_unknown"], "datasource_unknown", days.name, "PUT")
    with pytest.raises(ApiError) as refused:
        await days.api.create(spec, start=True)
    assert (refused.value.status, refused.value.body["errors"][0]["pointer"]) == (422, "/source/datasource")
    assert days.name in refused.value.body["errors"][0]["message"]
    assert (await days.api.request("GET", f"/v1/jobs/{days.name}")).status == 404
    await days.orders(1000)
    await days.api.create(spec)
    await days.succeeds()


class Unknown(NamedTuple):
    """A name that the source does not have, where the job says it, and how the source gets it."""

    source: Json
    pointer: str
    code: str
    words: tuple[str, ...]
    mended_by: str
    table: str = "orders"


UNKNOWN = {
    "table": Unknown({"table": "public.bestellungen"}, "/source/table", "table_unknown", ("bestellungen",),
                     "ALTER TABLE orders RENAME TO bestellungen", table="bestellungen"),
    "schema": Unknown({"table": "shop.orders"}, "/source/table", "table_unknown", ("shop.orders",),
                      "CREATE SCHEMA shop; ALTER TABLE orders SET SCHEMA shop", table="shop.orders"),
    "column": Unknown({"columns": ["id", "remark"]}, "/source/columns", "column_unknown", ("remark",),
                      "ALTER TABLE orders RENAME COLUMN note TO remark; ALTER TABLE orders DROP COLUMN amount"),
    "key": Unknown({"key": ["number"]}, "/source/key", "column_unknown", ("number",),
                   "ALTER TABLE orders ADD COLUMN number bigint UNIQUE GENERATED ALWAYS AS IDENTITY"),
    "where": Unknown({"where": "weight > 0"}, "/source/where", "column_unknown", ("weight",),
                     "ALTER TABLE orders ADD COLUMN weight int DEFAULT 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNKNOWN.values(), ids=UNKNOWN.keys())
async def test_a_name_that_the_source_does_not_have_is_said_and_mended_in_the_source(days: Days, case: Unknown):
    await days.orders(1000)
    spec = days.spec(source=case.source)
    found = days.findings(await days.api.validate(spec))
    says(found[case.code], case.code, *case.words)
    assert found[case.code]["pointer"].startswith(case.pointer), found
    job = await days.fails(spec)
    says(job["errors"][0], case.code, *case.words)
    assert job["totals"]["rows_sent"] == 0
    await days.sql(case.mended_by)
    await days.api.start(days.name)
    await days.every_row_once(await days.api.wait_for_state(days.name, "successful"), rows=case.table)


async def test_an_unknown_column_of_the_message_key_is_said(days: Days, kafka_server):
    await days.orders(1000)
    kafka_server.create_topic(days.name)
    spec = days.spec(sink=days.into_kafka(key=["customer"]))
    found = days.findings(await days.api.validate(spec))
    says(found["column_unknown"], "column_unknown", "customer", "sink.key")
    assert found["column_unknown"]["pointer"].startswith("/sink/key")
    says((await days.fails(spec))["errors"][0], "column_unknown", "customer", "sink.key")
    await days.sql("ALTER TABLE orders ADD COLUMN customer text DEFAULT 'nobody'")
    await days.succeeds()


async def test_a_table_without_a_unique_key_is_refused_until_it_has_one(days: Days):
    await days.orders(1000)
    await days.sql("ALTER TABLE orders DROP CONSTRAINT orders_pkey")
    spec = days.spec(source={"key": ["id"]})
    found = days.findings(await days.api.validate(spec))
    code = "key_not_unique_by_index"
    says(found[code], code, "(id)", "unique index", "orders")
    says((await days.fails(spec))["errors"][0], code, "(id)", "unique index", "orders")
    await days.sql("CREATE UNIQUE INDEX ON orders (id)")
    await days.succeeds()


async def test_a_query_whose_key_repeats_shows_nothing_of_the_page_and_ends_in_error(days: Days):
    await days.orders(2000)
    await days.sql("CREATE TABLE twice (id bigint, note text); INSERT INTO twice SELECT id, note FROM orders")
    await days.sql("INSERT INTO twice VALUES (1500, 'again'); CREATE INDEX ON twice (id)")
    await days.sql("ANALYZE twice")
    spec = days.spec(options={"chunk": {"rows": 500}})
    spec["source"] = {"datasource": days.name, "query": "SELECT id, note FROM twice", "key": ["id"]}
    job = await days.fails(spec)
    says(job["errors"][0], "key_not_unique", "1500", "source.key")
    assert job["totals"]["rows_sent"] <= 1500
    await days.sql("DELETE FROM twice WHERE note = 'again'")
    await days.api.start(days.name)
    await days.every_row_once(await days.api.wait_for_state(days.name, "successful"), rows="twice")


async def test_a_missing_topic_is_said_and_the_job_finishes_once_it_is_made(days: Days, kafka_server):
    await days.orders(1000)
    spec = days.spec(sink=days.into_kafka())
    found = days.findings(await days.api.validate(spec))
    says(found["topic_missing"], "topic_missing", days.name, "topic_settings.create")
    job = await days.fails(spec)
    says(job["errors"][0], "topic_missing", days.name, "Create it", "topic_settings.create")
    kafka_server.create_topic(days.name)
    await days.succeeds()


async def test_a_wrong_password_is_said_without_telling_any_and_mended_in_the_datasource(
    days: Days, postgres_server: PostgresServer
):
    await days.orders(1000)
    role = days.name.replace("-", "_")
    await postgres_server.create_user(role, "the-right-one")
    await days.sql(f"GRANT SELECT ON orders TO {role}")
    await days.api.put_datasource(days.name, with_login(days.source_dsn, role, "not-the-right-one"))
    answer = await days.api.call("POST", f"/v1/datasources/{days.name}:validate", 200)
    says(days.findings(answer)["authentication_failed"], "authentication_failed", role, "password", days.name)
    says(days.findings(await days.api.validate(days.spec()))["authentication_failed"], "authentication_failed", role)
    job = await days.fails(days.spec())
    says(job["errors"][0], "authentication_failed", role, "password", days.name)
    assert "right-one" not in str([job, answer, await days.api.log(days.name), await days.api.events(days.name)])
    assert "right-one" not in days.service.log_text()
    await days.api.put_datasource(days.name, with_login(days.source_dsn, role, "the-right-one"))
    await days.succeeds()


async def test_a_wrong_password_of_the_broker_is_said_without_telling_any_and_mended_in_the_credential(days: Days):
    plain = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_ana="the-right-one";'
    listeners = {
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "listener.name.proxied.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.proxied.plain.sasl.jaas.config": plain,
    }
    await days.orders(1000)
    with closing(KafkaServer(settings=listeners).start()) as kafka:
        async with FaultProxy(kafka.proxied_port, port=kafka.proxy_port):
            kafka.create_topic(days.name)
            await put_credential(days, "not-the-right-one")
            security = {"protocol": "SASL_PLAINTEXT", "mechanism": "PLAIN", "username": "ana"}
            sink = days.into_kafka(bootstrap=kafka.proxied_bootstrap, security=security, credential=days.name)
            words = ("ana", "security.password", "credential")
            found = days.findings(await days.api.validate(days.spec(sink=sink)))
            says(found["authentication_failed"], "authentication_failed", *words)
            job = await days.fails(days.spec(sink=sink))
            says(job["errors"][0], "authentication_failed", *words)
            assert "right-one" not in str([job, found, await days.api.log(days.name), await days.api.events(days.name)])
            assert "right-one" not in days.service.log_text()
            await put_credential(days, "the-right-one")
            await replace(days, kafka=kafka).succeeds()


async def put_credential(days: Days, password: str) -> None:
    body = {"name": days.name, "secrets": {"password": password}}
    await days.api.call("PUT", f"/v1/credentials/{days.name}", json=body)


async def test_a_row_that_the_topic_does_not_take_is_named_and_goes_once_it_does(days: Days, kafka_server):
    await days.orders(1000)
    kafka_server.create_topic(days.name, config={"max.message.bytes": "20000"})
    await days.sql("UPDATE orders SET note = (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 2000) n) "
                   "WHERE id = 700")  # fmt: skip
    job = await days.fails(days.spec(sink=days.into_kafka(), options={"chunk": {"rows": 300}}))
    assert [one["code"] for one in job["errors"]][:1] == ["dead_letters_exceeded"]
    says(job["errors"][1], "row_too_large", "700", "max.message.bytes")
    assert job["last_id"] == "600"
    await set_topic(kafka_server, days.name, "max.message.bytes", "200000")
    await days.succeeds()


async def set_topic(kafka_server, topic: str, name: str, value: str) -> None:
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = kafka_server.admin()  # its requests end with it
    admin.incremental_alter_configs([resource])[resource].result(15)

"""A configuration of the Siren dialect as the native definition that it is, and back.

Nothing of a configuration is kept twice: what GET shows is read off the job's definition, whoever has changed it since.
What has no place there stands in labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from service import secret_fields
from service.api.dialects.siren_answers import invalid
from service.domain.options import Options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from config.settings import Settings
    from service.api.dialects.siren_ingest import Ingest
    from service.domain.records import Job

_TYPE: Final = "siren.type"
_DESCRIPTION: Final = "siren.description"
_TARGET: Final = "siren.target"
_DEFAULTS: Final[Mapping[str, Any]] = Options().model_dump(mode="json")
INGESTION: Final = "ingestion"
_STRATEGIES: Final = {"INCREMENTAL": ("incremental", "incremental"), "REPLACE": ("full", "replace")}
"""The mode, and what it is called in the sink."""
_ELASTICSEARCH_ONLY: Final = ("staging_prefix", "mapping", "pipeline", "es_credentials")
_SPOKEN: Final = (
    ("source.template", "ingest.query"),
    ("source.query", "ingest.query"),
    ("source.key", "ingest.pk_field"),
    ("source.datasource", "ingest.datasource"),
    ("source.transforms", "ingest.transforms"),
    ("source.credentials.user", "ingest.ds_credentials.username"),
    ("source.credentials", "ingest.ds_credentials"),
    ("schedule.cron", "ingest.schedule"),
    ("options.", "ingest.options."),
    ("sink.", "ingest.sink."),
    ("PUT /v1/datasources/", "PUT /_siren/connector/datasource/"),
    ("GET /v1/datasources", "GET /_siren/connector/datasource/_search"),
)


def definition(name: str, given: Mapping[str, Any], ingest: Ingest, settings: Settings) -> dict[str, Any]:
    """The job as `/v1` takes it. `given`: the object that `ingest` was read from, its secrets as they came. Raises
    Failure."""
    mode, strategy = _STRATEGIES[ingest.strategy]
    sink = _sink(given, ingest, strategy, settings)
    source: dict[str, Any] = {"datasource": ingest.datasource, "template": ingest.query}
    if ingest.pk_field is not None:
        source["key"] = [ingest.pk_field]
    if ingest.transforms:
        source["transforms"] = [
            {"input": [one.source for one in each.input], "output": each.output, "kind": each.transform}
            for each in ingest.transforms
        ]
    if ingest.ds_credentials is not None:
        asked = given["ds_credentials"]
        password = {"password": asked["password"]} if "password" in asked else {}
        source["credentials"] = {"user": ingest.ds_credentials.username, **password}
    found = {
        "name": name,
        "source": source,
        "mode": mode,
        "sink": sink,
        "format": {"kind": "json"},
        "options": _options(ingest),
        "labels": _labels(ingest, sink),
    }
    if ingest.schedule is not None:
        enabled = ingest.enabled is not False
        found["schedule"] = {"dialect": "quartz", "cron": ingest.schedule, "enabled": enabled}
    return found


def with_safety(given: Mapping[str, Any], safety: Mapping[str, Any]) -> dict[str, Any]:
    """The definition with how rows that commit late are waited for."""
    return {**given, "options": {**given["options"], "safety": dict(safety)}}


def chooses_safety(given: Mapping[str, Any]) -> bool:
    """Whether nobody has said how late rows are waited for, and it matters."""
    return given["mode"] == "incremental" and "safety" not in given["options"]


def shown(job: Job, settings: Settings) -> dict[str, Any]:
    """The configuration of a job: in Siren's words where it was made with them, else its native source and sink."""
    spec = secret_fields.mask(job.spec, job.secret_pointers)
    source, sink = spec["source"], spec["sink"]
    if (
        job.labels.get(_TYPE) != INGESTION
        or source.get("template") is None
        or spec["mode"] not in {"incremental", "full"}
    ):
        return {"source": _present(source), "sink": _present(sink)}
    schedule = spec.get("schedule") or {}
    is_search = sink["kind"] == "elasticsearch"
    credentials = source.get("credentials") or {}
    found = {
        "datasource": source["datasource"],
        "query": source["template"],
        "batch_size": rows if (rows := spec["options"]["chunk"]["rows"]) != _DEFAULTS["chunk"]["rows"] else None,
        "schedule": schedule.get("cron"),
        "enable_scheduler": schedule.get("enabled"),
        "target": sink["index"] if is_search else job.labels.get(_TARGET),
        "staging_prefix": sink.get("staging_prefix"),
        "strategy": "INCREMENTAL" if spec["mode"] == "incremental" else "REPLACE",
        "pk_field": (source.get("key") or [None])[0],
        "mapping": _mapping_shown(sink) if is_search else None,
        "pipeline": sink.get("pipeline_definition") or sink.get("pipeline"),
        "transforms": _transforms_shown(source, sink) or None,
        "ds_credentials": {"username": credentials["user"]} if credentials else None,
        "es_credentials": {"username": sink["username"]} if is_search and sink.get("username") else None,
        "description": job.labels.get(_DESCRIPTION),
        "sink": None if _is_configured(sink, settings) else _present(sink),
        "options": _options_shown(spec["options"]) or None,
    }
    return _present(found)


def spoken(reason: str) -> str:
    """A message about a definition in the words of a configuration."""
    for native, ours in _SPOKEN:
        reason = reason.replace(native, ours)
    return reason


def moves_position(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What becomes of a job's position when its definition changes: a new query goes on after the last key, a new
    target or another key begins anew."""
    keeps = old.get("mode") == new["mode"] == "incremental"
    for part, names in (("source", ("datasource", "key")), ("sink", ("kind", "url", "index"))):
        before, after = old.get(part) or {}, new[part]
        keeps = keeps and all(before.get(name) == after.get(name) for name in names)
    return "keep" if keeps and old["sink"].get("strategy") != "replace" else "reset"


def _sink(given: Mapping[str, Any], ingest: Ingest, strategy: str, settings: Settings) -> dict[str, Any]:
    sink = dict(ingest.sink) if ingest.sink is not None else _configured(ingest, settings)
    if sink.get("kind") != "elasticsearch":
        for name in _ELASTICSEARCH_ONLY:
            if getattr(ingest, name) is not None:
                raise invalid(f"ingest.{name} goes with an Elasticsearch index, not with ingest.sink of another kind")
        return sink
    _agree(sink, "index", ingest.target, "target")
    _agree(sink, "strategy", strategy, "strategy")
    _agree(sink, "staging_prefix", ingest.staging_prefix, "staging_prefix")
    if isinstance(ingest.pipeline, str):
        _agree(sink, "pipeline", ingest.pipeline, "pipeline")
    else:
        _agree(sink, "pipeline_definition", ingest.pipeline, "pipeline")
    mapping = _mapping(ingest)
    if mapping is not None:
        _agree(sink, "mapping", mapping, "mapping")
    if ingest.es_credentials is not None:
        _agree(sink, "username", ingest.es_credentials.username, "es_credentials.username")
        sink.pop("credential", None)
        if "password" in given["es_credentials"]:
            sink["password"] = given["es_credentials"]["password"]
    return sink


def _configured(ingest: Ingest, settings: Settings) -> dict[str, Any]:
    if settings.siren_elasticsearch_url is None:
        raise invalid(
            "ingest.target names an index, and this service knows no Elasticsearch: an administrator can set "
            "ROWFERRY_SIREN_ELASTICSEARCH_URL, or give ingest.sink"
        )
    sink = {"kind": "elasticsearch", "url": settings.siren_elasticsearch_url}
    credential = settings.siren_elasticsearch_credential
    return sink if credential is None or ingest.es_credentials is not None else {**sink, "credential": credential}


def _agree(sink: dict[str, Any], name: str, value: Any, said: str) -> None:
    """Put a value that `sink` does not say itself. Raises Failure where it says another."""
    if value is None:
        return
    if sink.get(name) is not None and sink[name] != value:
        raise invalid(f"ingest.{said} and ingest.sink.{name} differ; give one of them, or the same twice")
    sink[name] = value


def _mapping(ingest: Ingest) -> dict[str, Any] | None:
    """The index's mapping: as given, and what transforms say of their fields."""
    fields = {each.output: _field(each) for each in ingest.transforms or ()}
    fields = {name: field for name, field in fields.items() if field is not None}
    if ingest.mapping is None and not fields:
        return None
    given = ingest.mapping or {}
    whole = dict(given) if given and given.keys() <= {"mappings", "settings"} else {"mappings": given}
    mappings = whole.get("mappings") or {}
    properties = mappings.get("properties") if isinstance(mappings, dict) else None
    if not isinstance(mappings, dict) or not isinstance(properties, dict | None):
        raise invalid("ingest.mapping is no mapping of Elasticsearch: give an object with properties")
    if fields:
        whole["mappings"] = {**mappings, "properties": {**(properties or {}), **fields}}
    return whole


def _field(transform: Any) -> dict[str, Any] | None:
    if transform.mapping is None and transform.transform == "geo_point":
        return {"type": "geo_point"}
    mapping: dict[str, Any] | None = transform.mapping
    return mapping


def _options(ingest: Ingest) -> dict[str, Any]:
    options = dict(ingest.options or {})
    if ingest.batch_size is not None:
        chunk = options.get("chunk")
        if chunk is not None and not isinstance(chunk, dict):
            raise invalid("ingest.options.chunk is no object")
        rows = (chunk or {}).get("rows", ingest.batch_size)
        if rows != ingest.batch_size:
            raise invalid("ingest.batch_size and ingest.options.chunk.rows differ; give one of them")
        options["chunk"] = {**(chunk or {}), "rows": ingest.batch_size}
    return options


def _labels(ingest: Ingest, sink: Mapping[str, Any]) -> dict[str, str]:
    labels = {_TYPE: INGESTION}
    if ingest.description is not None:
        labels[_DESCRIPTION] = ingest.description
    if ingest.target is not None and sink.get("kind") != "elasticsearch":
        labels[_TARGET] = ingest.target
    return labels


def _mapping_shown(sink: Mapping[str, Any]) -> dict[str, Any] | None:
    mapping = sink.get("mapping")
    if mapping is None or "settings" in mapping:
        return mapping
    shown_: dict[str, Any] = mapping.get("mappings") or {}
    return shown_


def _transforms_shown(source: Mapping[str, Any], sink: Mapping[str, Any]) -> list[dict[str, Any]]:
    properties = ((sink.get("mapping") or {}).get("mappings") or {}).get("properties") or {}
    return [
        _present(
            {
                "input": [{"source": name} for name in one["input"]],
                "output": one["output"],
                "transform": one["kind"],
                "mapping": properties.get(one["output"]),
            }
        )
        for one in source.get("transforms") or ()
    ]


def _options_shown(options: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the defaults, but for what has a key of its own."""
    chunk = {name: value for name, value in options["chunk"].items() if name != "rows"}
    found = {**options, "chunk": chunk}
    known = {**_DEFAULTS, "chunk": {name: value for name, value in _DEFAULTS["chunk"].items() if name != "rows"}}
    return {name: value for name, value in found.items() if value != known.get(name)}


def _is_configured(sink: Mapping[str, Any], settings: Settings) -> bool:
    """Whether a target without a sink would go to the same place."""
    if sink["kind"] != "elasticsearch" or sink["url"] != settings.siren_elasticsearch_url:
        return False
    credential = None if sink.get("username") else settings.siren_elasticsearch_credential
    return sink.get("credential") == credential and not any(sink.get(name) for name in ("api_key", "ca", "routing"))


def _present(found: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was not given."""
    return {name: value for name, value in found.items() if value is not None}

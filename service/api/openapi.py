"""OpenAPI 3.1 from the route table and the models that validate and answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from pydantic.json_schema import models_json_schema

from service.api.idempotency import HEADER as IDEMPOTENCY_KEY
from service.api.routes import JSON, Role, Route
from service.api.streams import CONTENT_TYPE as EVENT_STREAM

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from http import HTTPStatus

    from pydantic import BaseModel
    from pydantic.json_schema import JsonSchemaMode

    from service.api.queries import Query
    from service.api.routes import Call

_REF: Final = "#/components/schemas/{model}"
_PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance", "code", "retryable", "request_id"],
    "properties": {
        **{name: {"type": "string"} for name in ("type", "title", "detail", "instance", "code", "request_id")},
        "status": {"type": "integer"},
        "retryable": {"type": "boolean"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "message", "hint"],
                "properties": {
                    name: {"type": "string"} for name in ("pointer", "message", "hint", "parameter", "code")
                },
            },
        },
    },
}
# Of requests that read or write one representation.
_CONDITIONS: Final = {
    ("GET", "/v1/jobs/{job}"): ("If-None-Match",),
    ("PUT", "/v1/jobs/{job}"): ("If-Match", "If-None-Match"),
    ("PATCH", "/v1/jobs/{job}"): ("If-Match",),
}
_TITLES: Final = {200: "Done", 201: "Created", 202: "Set in motion", 204: "Gone", 304: "Unchanged", 503: "Not ready"}

_DOCUMENT: web.AppKey[bytes] = web.AppKey("rowferry_openapi", bytes)


def document(table: Sequence[Route], version: str) -> dict[str, Any]:
    """The description of every route of the table."""
    refs, schemas = _schemas(table)
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, refs, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Rowferry",
            "version": version,
            "description": "Moves rows out of Postgres as jobs that start, stop, resume and abort.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Problem": _PROBLEM},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Problem": {
                    "description": "What is wrong, and what to do (RFC 9457)",
                    "content": {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}},
                }
            },
        },
    }


def install(app: web.Application, table: Sequence[Route], version: str) -> None:
    """Make the document once."""
    app[_DOCUMENT] = json.dumps(document(table, version), ensure_ascii=False).encode()


async def serve(call: Call) -> web.StreamResponse:
    """The document."""
    return web.Response(body=call.request.app[_DOCUMENT], content_type=JSON)


def _schemas(table: Iterable[Route]) -> tuple[Mapping[tuple[object, str], Any], dict[str, Any]]:
    wanted: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {}
    for route in table:
        wanted[route.query, "validation"] = None
        if route.body is not None:
            wanted[route.body, "validation"] = None
        for model in route.answers.values():
            if model is not None:
                wanted[model, "serialization"] = None
    refs, definitions = models_json_schema(list(wanted), ref_template=_REF)
    return {(model, mode): schema for (model, mode), schema in refs.items()}, definitions.get("$defs", {})


def _operation(route: Route, refs: Mapping[tuple[object, str], Any], schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()}{route.path.translate(_PLAIN)}".rstrip("_"),
        "summary": route.summary,
        "security": [] if route.role is Role.PUBLIC else [{"token": []}],
        "x-rowferry-role": route.role.word,
        "parameters": _parameters(route, schemas),
        "responses": {
            str(status): _response(route, status, refs[model, "serialization"] if model is not None else None)
            for status, model in route.answers.items()
        }
        | {"default": {"$ref": "#/components/responses/Problem"}},
    }
    if route.role is not Role.PUBLIC:
        operation["description"] = f"Needs the role {route.role.word}."
    if route.body is not None:
        types = [JSON, "application/merge-patch+json"] if route.method == "PATCH" else [JSON]
        schema = refs[route.body, "validation"]
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": schema} for kind in types}}
    return operation


_PLAIN: Final = str.maketrans({"/": "_", "{": "", "}": "", ":": "_", "-": "_", ".": "_"})


def _response(route: Route, status: int | HTTPStatus, schema: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"description": _TITLES.get(int(status), "Answered")}
    if schema is not None:
        found["content"] = {JSON: {"schema": schema}}
        if route.stream and int(status) == 200:
            found["content"][EVENT_STREAM] = {"schema": {"type": "string"}}
    elif int(status) == 200:
        kind = {"/metrics": "text/plain"}.get(route.path, JSON)
        found["content"] = {kind: {"schema": {"type": "string" if kind != JSON else "object"}}}
    return found


def _parameters(route: Route, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    names = [part.partition("}")[0] for part in route.path.split("{")[1:]]
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
    ]
    found += _query_parameters(route.query, schemas)
    headers = list(_CONDITIONS.get((route.method, route.path), ()))
    headers += [IDEMPOTENCY_KEY] if route.method == "POST" else []
    headers += ["Last-Event-ID"] if route.stream else []
    found += [{"name": name, "in": "header", "required": False, "schema": {"type": "string"}} for name in headers]
    return found


def _query_parameters(model: type[Query], schemas: dict[str, Any]) -> list[dict[str, Any]]:
    schema = model.model_json_schema(ref_template=_REF)
    schemas.update(schema.get("$defs", {}))
    schemas.pop(model.__name__, None)  # described parameter by parameter
    found = []
    for name, given in schema.get("properties", {}).items():
        parameter = {key: value for key, value in given.items() if key not in {"title", "list", "description"}}
        choices = [one for one in parameter.pop("anyOf", ()) if one != {"type": "null"}]
        parameter |= choices[0] if len(choices) == 1 else ({"anyOf": choices} if choices else {})
        if parameter.get("default", ...) is None:
            del parameter["default"]
        entry = {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": parameter}
        found.append(entry | ({"description": given["description"]} if "description" in given else {}))
    return found


ROUTES = (Route("GET", "/openapi.json", Role.PUBLIC, serve, "This document", {200: None}),)

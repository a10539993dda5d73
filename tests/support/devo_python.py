"""Devo's own Python client, in a process of its own: reads what to do as JSON from its standard input, prints what came
of each step. Nothing of ours is imported here."""

from __future__ import annotations

import json
import sys
from typing import Any

from devo.api import Client, ClientConfig

MODES = {
    "json": "json",
    "json/compact": "jsoncompact_to_array",
    "json/simple": "json_simple",
    "json/simple/compact": "jsoncompactsimple_to_obj",
    "csv": "bytes_to_str",
    "tsv": "bytes_to_str",
}


def query(connect: dict[str, Any], step: dict[str, Any]) -> Any:
    mode = step.get("mode", "json/simple/compact")
    config = ClientConfig(
        response=mode, stream=step.get("stream", False), processor=MODES[mode], destination=step.get("destination")
    )
    if step.get("destination"):
        config.stream = False
        config.set_processor("json")
    found = Client(config=config, **connect).query(query=step["query"], dates=step["dates"], limit=step.get("limit"))
    if not config.stream:
        return found
    rows = []
    for row in found:
        rows.append(row)
        if len(rows) == step.get("until", -1):
            break
    return rows


def main() -> None:
    given = json.load(sys.stdin)
    connect = {"retries": 1, "retry_delay": 1, "timeout": 30, **given["connect"]}
    for step in given["steps"]:
        try:
            if step["do"] == "query":
                result = query(connect, step)
            else:
                result = getattr(Client(config=ClientConfig(), **connect), step["do"])(*step.get("with", []))
            sys.stdout.write(json.dumps({"result": result}) + "\n")
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            facts = {name: getattr(error, name, None) for name in ("code", "status", "message")}
            sys.stdout.write(json.dumps({"error": type(error).__name__, **facts}, default=str) + "\n")


if __name__ == "__main__":
    main()

"""What a job would read and promise, put together for those who ask before its first row."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from service.domain.inspection import Finding, Outlook

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sinks.formats.columns import Column
    from sinks.registry import Definition
    from workers.sources.base import Facts, Inspection, Source


async def before_the_first_row(
    promise: Callable[[Facts | None], tuple[str, str]], definition: Definition, source: Source, inspection: Inspection
) -> Outlook:
    """What `source` and its inspection say; `promise` gives guarantee and note of the whole definition."""
    found = list(inspection.findings)
    if inspection.guarantee_note:
        found.append(Finding("/options/safety", "info", "guarantee", inspection.guarantee_note))
    refused = any(finding.severity == "error" for finding in found)
    if definition.format.kind == "parquet" and not refused:
        # In a thread: with the first question the library is loaded, and that takes half a second.
        found += await asyncio.to_thread(_kept_as_text, await source.columns())
    guarantee, note = promise(None if refused else await source.facts())
    return Outlook(
        found,
        guarantee,
        note,
        [part.name for part in inspection.key],
        inspection.index,
        inspection.size.rows,
        inspection.size.bytes,
    )


def _kept_as_text(columns: Sequence[Column]) -> list[Finding]:
    from sinks.formats.parquet_schema import told_as_text  # noqa: PLC0415 - 40 MB that only Parquet needs

    names = [f"{column.name} ({column.type})" for column in told_as_text(columns)]
    if not names:
        return []
    message = f"Parquet has no type for {', '.join(names)}: the files hold Postgres's own text"
    hint = "each field's metadata names its postgres_type; a cast in source.query chooses another type"
    return [Finding("/source/columns", "info", "type_as_text", message, hint)]

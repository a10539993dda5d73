"""/v1/jobs/{job}/dead-letters: rows that could not be delivered. Their payloads are row data: for operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from config.redaction import REDACTOR
from service.api import paging
from service.api.answers.base import key_text
from service.api.answers.dead_letters import (
    DeadLetterAnswer,
    DeadLettersAnswer,
    DeadLettersDeletedAnswer,
    DeadLettersRetryAnswer,
    ReasonAnswer,
)
from service.api.models import DeadLettersRetryRequest
from service.api.native.jobs import actor
from service.api.queries import DeadLettersDeleteQuery, DeadLettersQuery
from service.api.routes import Role, Route, answer
from service.api.validation import validate

if TYPE_CHECKING:
    from aiohttp import web

    from service.api.routes import Call
    from service.domain.dead_letters import KeptLetter

OF_ANOTHER_MOMENT: Final = (
    "the run read its rows as of one moment (options.snapshot), which nobody holds any more: these are sent as they are"
    " when they are read; from payload sends the records of that moment"
)


async def listed(call: Call) -> web.StreamResponse:
    """A page, in the order in which they became final."""
    query = cast("DeadLettersQuery", call.query)
    job = await call.services.jobs.find(call.account, call.part("job"))
    page, after = await paging.asked(
        call.services.store.dead_letters(call.account, job.id, query.filters(), limit=query.limit, after=query.after)
    )
    found = [_shown(one) for one in page]
    return answer(DeadLettersAnswer(dead_letters=found, next=paging.following(call.request, after)))


async def retry(call: Call) -> web.StreamResponse:
    """202 when some are sent again, 200 when there are none."""
    request = validate(DeadLettersRetryRequest, call.body)
    job = await call.services.jobs.find(call.account, call.part("job"))
    asked = await call.services.store.retry_dead_letters(
        call.account, actor(call), job.id, ids=request.ids, origin=request.from_
    )
    await call.services.verbs.wake(job.id)
    said = DeadLettersRetryAnswer.model_validate(
        {"from": request.from_, "dead_letters": asked.letters, "notes": [OF_ANOTHER_MOMENT] * asked.other_moment}
    )
    return answer(said, 202 if asked.letters else 200)


async def delete(call: Call) -> web.StreamResponse:
    """200 with how many went."""
    query = cast("DeadLettersDeleteQuery", call.query)
    job = await call.services.jobs.find(call.account, call.part("job"))
    count = await call.services.store.delete_dead_letters(call.account, actor(call), job.id, ids=query.id)
    return answer(DeadLettersDeletedAnswer(deleted=count))


def _shown(record: KeptLetter) -> DeadLetterAnswer:
    """A dead letter. A cut record may end within a character."""
    payload = record.payload
    return DeadLetterAnswer(
        id=record.id,
        run_id=record.run_id,
        generation=record.generation,
        split=record.split,
        key=key_text(record.key),
        reason=ReasonAnswer(code=record.code, message=REDACTOR.scrub(record.message)),
        payload=None if payload is None else payload.decode("utf-8", "replace"),
        payload_bytes=record.payload_bytes,
        at=record.at,
        retries=record.retries,
        note=None if record.note is None else REDACTOR.scrub(record.note),
        retrying=record.retry is not None,
    )


ROUTES = (
    Route("GET", "/v1/jobs/{job}/dead-letters", Role.OPERATOR, listed, "Rows that could not be delivered",
          {200: DeadLettersAnswer}, DeadLettersQuery),
    Route("POST", "/v1/jobs/{job}/dead-letters:retry", Role.OPERATOR, retry, "Send dead letters again",
          {200: DeadLettersRetryAnswer, 202: DeadLettersRetryAnswer}, body=DeadLettersRetryRequest),
    Route("DELETE", "/v1/jobs/{job}/dead-letters", Role.OPERATOR, delete, "Let go of dead letters",
          {200: DeadLettersDeletedAnswer}, DeadLettersDeleteQuery),
)  # fmt: skip

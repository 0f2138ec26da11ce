"""An answer as it comes: server-sent events."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

from dllm_decode.serve.answers import draft, event_of, usage
from dllm_decode.serve.errors import ApiError
from dllm_decode.serve.job import Job
from dllm_decode.serve.service import Service

log = logging.getLogger(__name__)
KEEP_ALIVE = 15.0  #: seconds of silence after which a stream says that it lives


async def stream(service: Service, job: Job) -> AsyncIterator[bytes]:
    """Server-sent events; a failure is an event too, after which nothing comes."""
    kind = "chat.completion.chunk" if job.ask.chat else "text_completion"
    head, sent, completion = service.head(job, kind), [""] * job.channel.rows, 0
    ended: set[int] = set()

    def chunk(row: int, text: str | None, reason: str | None = None, **more: Any) -> bytes:
        said: dict[str, Any] = {"index": row, "finish_reason": reason, "logprobs": None, **more}
        if job.ask.chat:
            said["delta"] = {} if text is None else {"content": text}
        else:
            said["text"] = text or ""
        return event_of({**head, "choices": [said]})

    if job.ask.chat:
        for row in range(job.channel.rows):
            first = {"index": row, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            yield event_of({**head, "choices": [first]})
    try:
        while len(ended) < job.channel.rows:
            if not await job.channel.wait(KEEP_ALIVE):
                yield b": alive\n\n"
                continue
            latest, drafts, outcomes = job.channel.take()
            for event in drafts:
                yield event_of({**head, "choices": [], "dllm": draft(event, event.row, service.codec)})
            for row, event in latest.items():
                if row in outcomes:
                    continue
                text = job.reader.fresh(job.requests[row], event, len(sent[row]))
                if text:
                    sent[row] += text
                    yield chunk(row, text)
            for row, outcome in outcomes.items():
                if row in ended:
                    continue
                ended.add(row)
                service.raise_failure(job, outcome)
                text, reason, count = job.reader.finish(outcome, outcome.error is not None)
                completion += count
                if not text.startswith(sent[row]):
                    log.error("a settled text changed: %r was sent, %r is the answer", sent[row], text)
                elif len(text) > len(sent[row]):
                    yield chunk(row, text[len(sent[row]) :])
                more: dict[str, Any] = {"dllm": service.facts(job, outcome)}
                if job.ask.logprobs:
                    more["logprobs"] = job.reader.logprobs(outcome, count, job.ask.chat)
                yield chunk(row, None, reason, **more)
                service.metrics.ended(job, outcome, reason, count)
    except ApiError as error:
        service.cancel(job)
        yield event_of(error.body)
        return
    everything = [job.channel.outcomes[row] for row in range(job.channel.rows)]
    totals = {**service.totals(job, everything), "dropped_drafts": job.channel.dropped}
    last: dict[str, Any] = {**head, "choices": [], "dllm": totals}
    if job.ask.include_usage:
        last["usage"] = usage(job.prompt_tokens, completion)
    if job.ask.include_usage or job.ask.drafts or job.ask.trace:
        yield event_of(last)
    yield b"data: [DONE]\n\n"

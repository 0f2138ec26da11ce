"""One ask from its check to its answer: rows for the engine, a channel for what they say, objects for the client."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from dllm_decode.engine.policy_file import resolve_policy
from dllm_decode.engine.request import Outcome, Request
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.engine.scheduler import DeadlinePassed
from dllm_decode.errors import DllmError
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.interface.text import TextCodec
from dllm_decode.serve.answers import Reader, facts, usage
from dllm_decode.serve.channel import Channel
from dllm_decode.serve.engine import Engine
from dllm_decode.serve.errors import ApiError, bad, of_exception
from dllm_decode.serve.job import Job
from dllm_decode.serve.metrics import Metrics
from dllm_decode.serve.prompts import UserText, check_ids
from dllm_decode.serve.protocol import Ask
from dllm_decode.serve.settings import Serving
from samplers import PolicyError

log = logging.getLogger(__name__)
SAMPLERS = 64


class Service:
    """Serves asks over an engine."""

    def __init__(self, engine: Engine, serving: Serving, metrics: Metrics) -> None:
        self.engine, self.serving, self.metrics = engine, serving, metrics
        self.draining = False
        self._samplers: OrderedDict[tuple[str, str], DiffusionSampler] = OrderedDict()
        self._users: UserText | None = None

    @property
    def model(self) -> DenoisingModel:
        """The model.

        Raises:
            ApiError: 503: it is not there yet, or no more.
        """
        if self.engine.state == "dead":
            raise ApiError(503, f"the engine is dead: {self.engine.why}", code="engine_dead", retry_after=30)
        if self.engine.model is None or self.engine.state == "loading":
            raise ApiError(503, "the model is still being loaded; try again soon.", code="loading", retry_after=2)
        return self.engine.model

    @property
    def codec(self) -> TextCodec:
        """The model's tokenizer; a server has one."""
        codec = self.model.tokenizer
        assert codec is not None
        return codec

    async def submit(self, ask: Ask) -> Job:
        """Check an ask against the model, and have its rows decoded.

        Raises:
            ApiError: it cannot be served, or not now.
        """
        model = self.model
        if self.draining:
            raise ApiError(503, "the server is shutting down; try another.", code="draining", retry_after=5)
        ids, hole = self._ids(ask)
        seed = secrets.randbelow(2**31) if ask.seed is None else ask.seed
        channel = Channel(len(ids) * ask.n, ask.drafts)
        requests = self._requests(ask, ids, seed, hole, channel)
        timeout = self.serving.deadline if ask.deadline is None else ask.deadline
        came = time.monotonic()
        try:
            tickets = await asyncio.wrap_future(self.engine.submit(requests, timeout))
        except Exception as error:
            raise of_exception(error, self.engine.retry_after) from error
        reader = Reader(self.codec, model.eos_ids, hole, ask.stop)
        prompt = sum(len(one) for one in ids) - (0 if hole is None else hole * len(ids))
        kind = "chatcmpl" if ask.chat else "cmpl"
        return Job(
            ask, requests, tickets, channel, reader, seed, prompt, came, f"{kind}-{secrets.token_hex(12)}",
            int(time.time()),
        )  # fmt: skip

    def cancel(self, job: Job) -> None:
        """The client is gone, or has what it wants."""
        if not job.channel.finished:
            self.engine.cancel(job.tickets)

    def _ids(self, ask: Ask) -> tuple[list[list[int]], int | None]:
        """Token ids of each prompt (with its hole and suffix), and the hole's cells."""
        model, users = self.model, self._users or UserText(self.codec)
        self._users = users
        canvas = ask.max_tokens if ask.max_tokens is not None else self.serving.config.max_new_tokens
        if canvas > self.serving.most_tokens:
            raise bad(
                f"max_tokens is {canvas}, but this server decodes {self.serving.most_tokens} at most; ask for fewer.",
                "max_tokens",
                "context_length_exceeded",
            )
        out = []
        for prompt in ask.prompts:
            if ask.chat:
                ids = users.chat(prompt)
            elif isinstance(prompt, str):
                ids = users.encode(prompt)
            else:
                ids = check_ids(prompt, users.special, model.vocab_size, model.mask_id)
            if ask.suffix is not None:
                ids = [*ids, *[model.mask_id] * canvas, *users.encode(ask.suffix)]
            if not ids:
                raise bad("the prompt is empty; give some text.", "messages" if ask.chat else "prompt")
            whole = len(ids) + (canvas if ask.suffix is None else 0)
            if model.max_length is not None and whole > model.max_length:
                raise bad(
                    f"prompt and canvas take {whole} tokens, but {self.serving.name} was made for {model.max_length}; "
                    "shorten the prompt, or ask for fewer tokens.",
                    "max_tokens",
                    "context_length_exceeded",
                )
            out.append(ids)
        return out, None if ask.suffix is None else canvas

    def _requests(
        self, ask: Ask, ids: list[list[int]], seed: int, hole: int | None, channel: Channel
    ) -> list[Request]:
        settings = dict(ask.settings, seed=seed)
        if hole is not None:
            settings |= {"infill": True, "max_new_tokens": 0}
        else:
            settings["max_new_tokens"] = ask.max_tokens or self.serving.config.max_new_tokens
            if ask.stop:
                settings["stop"] = ask.stop
        try:
            sampler = self._sampler(ask.policy or self.serving.policy, ask.cache or self.serving.cache_of(self.model))
            return sampler.requests(
                ids,
                num_samples=ask.n,
                trace=ask.trace or ask.logprobs,
                on_step=channel.step if ask.stream or ask.partial else None,
                on_done=channel.done,
                **settings,
            )
        except PolicyError as error:
            raise bad(str(error)[:500], "dllm.policy") from error
        except DllmError as error:
            raise bad(str(error), "dllm") from error

    def _sampler(self, policy: str, cache: str) -> DiffusionSampler:
        key = (policy, cache)
        found = self._samplers.get(key)
        if found is None:
            if policy != self.serving.policy:
                resolve_policy(policy, trusted=False)
            config = self.serving.config
            config = config.replace(cache_dtype=None) if cache == "none" else config
            found = DiffusionSampler(self.model, policy, cache, config)
            self._samplers[key] = found
            while len(self._samplers) > SAMPLERS:
                self._samplers.popitem(last=False)
        self._samplers.move_to_end(key)
        return found

    async def answer(self, job: Job) -> dict[str, Any]:
        """The plain answer, when it is there.

        Raises:
            ApiError: a row failed.
        """
        while not job.channel.finished:
            await job.channel.wait()
        outcomes = [job.channel.outcomes[row] for row in range(job.channel.rows)]
        choices, completion = [], 0
        for row, outcome in enumerate(outcomes):
            self.raise_failure(job, outcome)
            text, reason, count = job.reader.finish(outcome, outcome.error is not None)
            completion += count
            choice: dict[str, Any] = {"index": row, "finish_reason": reason}
            choice["logprobs"] = job.reader.logprobs(outcome, count, job.ask.chat) if job.ask.logprobs else None
            if job.ask.chat:
                choice["message"] = {"role": "assistant", "content": text, "refusal": None}
            else:
                choice["text"] = text
            choice["dllm"] = self.facts(job, outcome)
            choices.append(choice)
            self.metrics.ended(job, outcome, reason, count)
        return {
            **self.head(job, "chat.completion" if job.ask.chat else "text_completion"),
            "choices": choices,
            "usage": usage(job.prompt_tokens, completion),
            "dllm": self.totals(job, outcomes),
        }

    def raise_failure(self, job: Job, outcome: Outcome) -> None:
        """Raise what a failed row is answered with."""
        error = outcome.error
        if error is None or (isinstance(error, DeadlinePassed) and job.ask.partial and outcome.tokens):
            return
        self.cancel(job)
        self.metrics.failed(job, outcome)
        if not isinstance(error, DeadlinePassed):
            log.warning("request %s failed: %s: %s", job.id, type(error).__name__, error)
        raise of_exception(error)

    def head(self, job: Job, kind: str) -> dict[str, Any]:
        """What every object of an answer begins with."""
        return {"id": job.id, "object": kind, "created": job.created, "model": self.serving.name}

    def facts(self, job: Job, outcome: Outcome) -> dict[str, Any]:
        """A row's own object."""
        return facts(outcome, self.model.mask_id, self.model.eos_ids, self.codec, job.ask.trace)

    def totals(self, job: Job, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """The own object of the whole answer."""
        waits = [ticket.began - ticket.came for ticket in job.tickets if ticket.began is not None]
        return {
            "nfe": sum(outcome.nfe for outcome in outcomes),
            "full_forwards": sum(outcome.full_forwards for outcome in outcomes),
            "tokens_forwarded": sum(outcome.tokens_forwarded for outcome in outcomes),
            "canvas_tokens": sum(len(outcome.tokens) - sum(outcome.given) for outcome in outcomes),
            "seed": job.seed,
            "queue_ms": round(1000 * max(waits, default=0.0), 3),
            "policy": job.ask.policy or self.serving.policy,
            "cache": job.ask.cache or self.serving.cache_of(self.model),
        }

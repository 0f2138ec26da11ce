"""A worker: claims shards of a job until none is left, decodes them, writes their parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.policy_file import resolve_policy
from dllm_decode.engine.pool import Feed, kinds
from dllm_decode.engine.prompts import lay_out
from dllm_decode.engine.request import Outcome, Request
from dllm_decode.engine.result import Ending
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.errors import DllmError
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.jobs.claims import worker_name
from dllm_decode.jobs.folder import JobFolder
from dllm_decode.jobs.lines import Line
from dllm_decode.jobs.manifest import JobSettings

BATCH_SIZE = 16


@dataclass
class Decoder:
    """Answers lines with a model: one sampler per policy and cache that lines ask for.

    Attributes:
        model: what decodes. ``settings``: of the job. ``batch_size``: rows decoded together.
    """

    model: DenoisingModel
    settings: JobSettings
    batch_size: int = BATCH_SIZE
    _samplers: dict[tuple[str, str], DiffusionSampler] = field(default_factory=dict)

    def sampler(self, line: Line) -> DiffusionSampler:
        """The sampler of a line's policy and cache."""
        asked = line.settings.get("policy", self.settings.policy), line.settings.get("cache", self.settings.cache)
        if asked not in self._samplers:
            if "policy" in line.settings:
                resolve_policy(asked[0], trusted=False)  # whoever wrote a line may name no file and no class
            if len(self._samplers) >= 64:
                self._samplers.clear()
            config = GenerationConfig.from_dict(self.settings.config)
            self._samplers[asked] = DiffusionSampler(self.model, asked[0], cache=asked[1], config=config)
        return self._samplers[asked]

    def config(self, line: Line) -> dict[str, Any]:
        """The line's own fields of the config."""
        return {k: v for k, v in line.settings.items() if k not in ("policy", "cache", "samples", "chat")}

    def chat(self, line: Line) -> bool | None:
        """Whether the line's text goes into the chat template."""
        chat: bool | None = line.settings.get("chat", self.settings.chat)
        return chat

    def check(self, line: Line) -> None:
        """Raise what decoding this line would, without a forward."""
        sampler = self.sampler(line)
        config, own = sampler.config, self.config(line)
        if own:
            config = config.replace(**own)
            sampler._bound(config)
        lay_out(self.model, [line.prompt], self.chat(line), config)

    def answer(self, lines: list[Line]) -> tuple[list[bytes], dict[str, Any]]:
        """The lines of the output, in order, and what they hold; a line that fails has its error in its place."""
        out, errors, tokens = [], 0, 0
        for line, found in zip(lines, self.samples(lines), strict=True):
            if isinstance(found, Exception):
                errors += 1
                out.append(line.failure(found))
            else:
                tokens += sum(answer["content_tokens"] for answer in found)
                out.append(line.answer(found, self.settings.model))
        return out, {"lines": len(lines), "errors": errors, "tokens": tokens}

    def samples(self, lines: list[Line]) -> list[list[dict[str, Any]] | Exception]:
        """Per line its answers, or what it failed with."""
        requests: list[list[Request] | Exception] = []
        for line in lines:
            try:
                made = self.sampler(line).requests(
                    [line.prompt],
                    chat=self.chat(line),
                    num_samples=line.settings.get("samples", 1),
                    places=[line.place()],
                    **self.config(line),
                )
            except (DllmError, ValueError, TypeError) as error:
                requests.append(error)
            else:
                requests.append(made)
        outcomes = dict(self._decode([r for made in requests if isinstance(made, list) for r in made]))
        found: list[list[dict[str, Any]] | Exception] = []
        for asked in requests:
            if isinstance(asked, Exception):
                found.append(asked)
                continue
            done = [outcomes[id(request)] for request in asked]
            failed = next((outcome.error for outcome in done if outcome.error is not None), None)
            found.append([self._answer(outcome) for outcome in done] if failed is None else failed)
        return found

    def _decode(self, requests: list[Request]) -> Iterator[tuple[int, Outcome]]:
        """The outcomes of requests of any kinds, each kind through a pool of its own."""
        for kind in kinds(requests):
            for outcome in Feed.of(self.model, kind, self.batch_size, isolate=True).outcomes():
                yield id(outcome.request), outcome

    def _answer(self, outcome: Outcome) -> dict[str, Any]:
        """What the output tells of a sample."""
        end = Ending.of_outcome(outcome, self.model.eos_ids, self.model.tokenizer)
        return {
            "text": outcome.tokens[: end.content] if end.text is None else end.text,
            "finish_reason": "stop" if end.content < end.canvas else "length",
            "prompt_tokens": outcome.request.offset,
            "content_tokens": end.content,
            "until_eos_tokens": end.until_eos,
            "canvas_tokens": end.canvas,
            "nfe": outcome.nfe,
            "full_forwards": outcome.full_forwards,
            "tokens_forwarded": outcome.tokens_forwarded,
        }


@dataclass
class Worker:
    """One process at work on a job.

    Attributes:
        job: the folder. ``decoder``: answers lines.
        max_errors: stop when more lines than that have failed, in the whole job; ``None`` = never.
        name: for people.
    """

    job: JobFolder
    decoder: Decoder
    max_errors: int | None = None
    name: str = field(default_factory=worker_name)

    def run(
        self, shards: list[int] | None = None, wait: bool = True, on_part: Callable[[int], None] | None = None
    ) -> int:
        """Decode shards until every one is finished.

        Args:
            shards: only these; ``None`` = all of the job.
            wait: stay while others hold the last shards, to take over those whose owner dies.
            on_part: told the number of each shard that this worker has finished.

        Returns:
            How many shards this worker has finished.

        Raises:
            DllmError: the input has changed, the folder cannot be written, or too many lines have failed.
        """
        count = 0
        for shard in self.job.work(self.name, self._one, shards, wait):
            count += 1
            if on_part is not None:
                on_part(shard)
            self._stop_at_errors()
        return count

    def _one(self, shard: int) -> None:
        began = time.perf_counter()
        lines, stats = self.decoder.answer(self.job.manifest.read(shard))
        self.job.answered(shard, lines, {**stats, "seconds": time.perf_counter() - began, "worker": self.name})

    def _stop_at_errors(self) -> None:
        if self.max_errors is None:
            return
        failed = self.job.progress().errors
        if failed > self.max_errors:
            raise DllmError(
                f"{failed} lines of the job have failed, and --max-errors is {self.max_errors}; look at the parts in "
                f"{str(self.job.parts)!r}, then go on with a larger one."
            )

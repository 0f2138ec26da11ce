"""A worker: claims shards of a job until none is left, decodes them, writes their parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.policy_file import resolve_policy
from dllm_decode.engine.prompts import lay_out
from dllm_decode.engine.request import Outcome, Request
from dllm_decode.engine.result import Ending
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.errors import DllmError
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.jobs.claims import Take, worker_name
from dllm_decode.jobs.flow import Flow
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

    def requests(self, line: Line) -> list[Request] | Exception:
        """A line's rows, or what is wrong with it."""
        try:
            return self.sampler(line).requests(
                [line.prompt],
                chat=self.chat(line),
                num_samples=line.settings.get("samples", 1),
                places=[line.place()],
                **self.config(line),
            )
        except (DllmError, ValueError, TypeError) as error:
            return error

    def answers(
        self, take: Callable[[], tuple[int, list[Line]] | None]
    ) -> Iterator[tuple[int, list[Line], list[list[dict[str, Any]] | Exception]]]:
        """Shards as they are done: number, lines, and per line its answers, or what it failed with.

        Args:
            take: gives the next shard, or ``None`` = there is none now; asked when places would stay free otherwise.
        """
        lines: dict[int, list[Line]] = {}

        def source() -> tuple[int, list[list[Request] | Exception]] | None:
            taken = take()
            if taken is None:
                return None
            lines[taken[0]] = taken[1]
            return taken[0], [self.requests(line) for line in taken[1]]

        for group in Flow(self.model, self.batch_size, source).finished():
            found: list[list[dict[str, Any]] | Exception] = []
            for asked in group.rows:
                if isinstance(asked, Exception):
                    found.append(asked)
                    continue
                done = [group.outcomes[id(request)] for request in asked]
                failed = next((outcome.error for outcome in done if outcome.error is not None), None)
                found.append([self._answer(outcome) for outcome in done] if failed is None else failed)
            yield group.number, lines.pop(group.number), found

    def samples(self, lines: list[Line]) -> list[list[dict[str, Any]] | Exception]:
        """Per line its answers, or what it failed with."""
        one = iter([(0, lines)])
        return next(self.answers(lambda: next(one, None)))[2]

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
        for shard in self.job.work(self.name, self._shards, shards, wait):
            count += 1
            if on_part is not None:
                on_part(shard)
            self._stop_at_errors()
        return count

    def _shards(self, take: Take) -> Iterator[int]:
        """Do what can be taken; each part is written when its last row has ended."""
        since, begun = time.perf_counter(), dict[int, float]()

        def read() -> tuple[int, list[Line]] | None:
            shard = take()
            if shard is None:
                return None
            begun[shard] = time.perf_counter()
            return shard, self.job.manifest.read(shard)

        for shard, lines, answers in self.decoder.answers(read):
            out, errors, tokens = [], 0, 0
            for line, found in zip(lines, answers, strict=True):
                if isinstance(found, Exception):
                    errors += 1
                    out.append(line.failure(found))
                else:
                    tokens += sum(answer["content_tokens"] for answer in found)
                    out.append(line.answer(found, self.decoder.settings.model))
            now = time.perf_counter()
            spent = now - max(since, begun.pop(shard))  # two shards under way take one worker's time
            stats = {"lines": len(lines), "errors": errors, "tokens": tokens, "seconds": spent, "worker": self.name}
            self.job.answered(shard, out, stats)
            since = now
            yield shard

    def _stop_at_errors(self) -> None:
        if self.max_errors is None:
            return
        failed = self.job.progress().errors
        if failed > self.max_errors:
            raise DllmError(
                f"{failed} lines of the job have failed, and --max-errors is {self.max_errors}; look at the parts in "
                f"{str(self.job.parts)!r}, then go on with a larger one."
            )

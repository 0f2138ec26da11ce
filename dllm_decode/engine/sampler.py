"""DiffusionSampler: prompts in, text out, under any policy."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dllm_decode.config import CACHES, GenerationConfig
from dllm_decode.engine.binding import bind
from dllm_decode.engine.blocks import check_cache_fits, default_cache, fit_config
from dllm_decode.engine.cost import memory_errors_explained
from dllm_decode.engine.events import StepEvent
from dllm_decode.engine.policy_file import resolve_policy
from dllm_decode.engine.pool import Feed
from dllm_decode.engine.prompts import Prompt, lay_out, several
from dllm_decode.engine.randomness import Place, places_of
from dllm_decode.engine.request import Outcome, Request
from dllm_decode.engine.result import GenerationResult
from dllm_decode.engine.streaming import StreamRelay
from dllm_decode.errors import DllmError
from dllm_decode.interface.model import DenoisingModel
from samplers import Composition, Policy, Prediction, View, spell
from samplers.registry import suggest

log = logging.getLogger(__name__)

#: Rows that are decoded together when nobody says how many.
BATCH_SIZE = 64
KEPT = 64  #: bound policies that a sampler keeps


class DiffusionSampler:
    """Decodes masked-diffusion language models with a pluggable policy.

    Args:
        model: a :class:`~dllm_decode.interface.model.DenoisingModel`, or what :func:`load_model` takes.
        policy: a policy, a composition ``AdaBlock() | LocalLeap()``, its string ``"adablock+localleap:radius=4"``, or
            ``"@FILE"``, a policy file, whose cache and settings are taken where none are given here.
        cache: ``"none"``, ``"prefix"`` or ``"dual"``; ``"block"``, the exact cache of block-causal models; or
            ``"auto"`` (the default): the one that changes nothing, block where there are blocks and none elsewhere.
        config: default settings of every generation; keyword overrides may be given to :meth:`generate`.

    Raises:
        PolicyError: parts clash, or need what the cache does not offer.
        DllmError: unknown cache, or one the model does not support.
    """

    def __init__(
        self,
        model: DenoisingModel | str | Path,
        policy: Policy | str = "threshold",
        cache: str | None = None,
        config: GenerationConfig | None = None,
    ) -> None:
        found = resolve_policy(policy)
        if config is None:
            config = GenerationConfig.from_dict(found.settings)
        elif found.settings:
            log.warning("config is given, so the settings of the policy file are left: %s", found.settings)
        cache = next((kind for kind in (cache, found.cache) if kind is not None), "auto")
        if isinstance(model, (str, Path)):
            from dllm_decode.engine.load import load_model  # transformers' model classes take seconds to import

            model = load_model(model)
        self.model = model
        if not isinstance(self.model, DenoisingModel):
            raise DllmError(
                f"{model!r:.80} is no model; give a name, a folder or a NativeModel, or a function in CallableModel."
            )
        self.config = config
        if not isinstance(self.config, GenerationConfig):
            raise DllmError(f"config is {config!r:.80}; give a GenerationConfig(...).")
        if cache not in ("auto", *CACHES):
            raise DllmError(f"unknown cache {cache!r}{suggest(str(cache), CACHES)}; use one of {', '.join(CACHES)}.")
        self.cache = default_cache(self.model) if cache == "auto" else cache
        check_cache_fits(self.model, self.cache)
        self.policy = Composition.of(found.policy)
        self._told: dict[tuple[Any, ...], Composition] = {}
        self._bound(self.config)  # clashes are found here, not in the middle of a run

    def __repr__(self) -> str:
        return f"DiffusionSampler({self.model.name!r}, policy={spell(self.policy)!r}, cache={self.cache!r})"

    def _bound(self, config: GenerationConfig) -> Composition:
        """The policy told about a config; kept, for it depends on no seed, and what it remembers lives in the run."""
        key = tuple(value for name, value in vars(config).items() if name != "seed")
        if key not in self._told:
            bound = bind(self.policy, self.model, self.cache, config, self._decode)
            while len(self._told) >= KEPT:
                del self._told[next(iter(self._told))]
            self._told[key] = bound
        return self._told[key]

    def _decode(self, policy: str, prompt: list[int], config: GenerationConfig) -> Iterator[StepEvent]:
        """Decode a prompt as this sampler would under another policy."""
        return DiffusionSampler(self.model, policy, self.cache, config).stream(prompt)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        chat: bool | None = None,
        on_step: Callable[[StepEvent], None] | None = None,
        on_prediction: Callable[[Sequence[int], View, Prediction], None] | None = None,
        streamer: Any = None,
        num_samples: int = 1,
        places: Iterable[int | Place] | None = None,
        batch_size: int = BATCH_SIZE,
        **overrides: Any,
    ) -> GenerationResult:
        """Decode a batch of prompts of any lengths; each row gets exactly what it would get alone.

        Args:
            prompts: one prompt or several; text, chat messages (``[{"role": ..., "content": ...}]``) or token ids.
            chat: put text prompts in the model's chat template; ``None`` = if it has one.
            on_step: called with a :class:`StepEvent` after every forward of every row.
            on_prediction: called in every forward, before the policy decides, with the numbers of its rows, their
                :class:`View` and the :class:`Prediction`; to look at, not to change.
            streamer: a transformers streamer (``put``, optionally ``put_draft``, ``end``); one prompt only.
            num_samples: independent answers to each prompt; the rows are prompt 0's samples, then prompt 1's, ...
            places: with a temperature above 0, the prompts' indices in the job that this call is a part of (such as
                ``range(64, 96)``), or pairs (index, number of the first sample); default 0, 1, .... A row draws from
                (seed, index, sample) alone, so that answers do not depend on how a job is cut into calls.
            batch_size: rows decoded together; a prompt beyond them joins as soon as one has ended. Changes no answer.
            **overrides: settings of :class:`GenerationConfig` for this call.
        """
        listed = several(prompts)
        if streamer is not None and len(listed) * num_samples > 1:
            raise DllmError(
                f"a streamer follows one prompt, but {len(listed) * num_samples} were given; call generate per prompt."
            )
        listeners: list[Callable[[StepEvent], None]] = [] if on_step is None else [on_step]
        if streamer is not None:
            listeners.append(StreamRelay(streamer))

        def heard(event: StepEvent) -> None:
            for listener in listeners:
                listener(event)

        requests = self.requests(
            listed,
            chat=chat,
            num_samples=num_samples,
            places=places,
            trace=True,
            on_step=heard if listeners else None,
            **overrides,
        )
        return self.run(requests, batch_size=batch_size, on_prediction=on_prediction)

    def run(
        self,
        requests: Sequence[Request],
        *,
        batch_size: int = BATCH_SIZE,
        on_prediction: Callable[[Sequence[int], View, Prediction], None] | None = None,
    ) -> GenerationResult:
        """Decode requests of this sampler, of any lengths and seeds; the result has them in their order."""
        began = time.perf_counter()
        feed = self.feed(requests, batch_size)
        batch = feed.pool.batch
        batch.on_prediction = on_prediction
        with memory_errors_explained(self.model, batch.places, batch.slots, self.cache, requests[0].config):
            outcomes = {id(outcome.request): outcome for outcome in feed.outcomes()}
        seconds = time.perf_counter() - began
        return GenerationResult.of(feed.pool, [outcomes[id(request)] for request in requests], seconds)

    def stream(self, prompt: Prompt, *, chat: bool | None = None, **overrides: Any) -> Iterator[StepEvent]:
        """Decode one prompt and yield a :class:`StepEvent` after every forward; ``event.settled`` cells are final."""
        events: deque[StepEvent] = deque()
        feed = self.feed(self.requests([prompt], chat=chat, on_step=events.append, **overrides))

        def steps() -> Iterator[StepEvent]:
            for _ in feed.ticks():
                while events:
                    yield events.popleft()

        return steps()

    def requests(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        chat: bool | None = None,
        num_samples: int = 1,
        places: Iterable[int | Place] | None = None,
        trace: bool = False,
        on_step: Callable[[StepEvent], None] | None = None,
        on_done: Callable[[Outcome], None] | None = None,
        **overrides: Any,
    ) -> list[Request]:
        """Check prompts and settings, and make of each prompt the request that a pool takes.

        Args:
            prompts: one or several.
            chat: as of :meth:`generate`.
            num_samples: likewise.
            places: likewise.
            trace: keep traces.
            on_step: see :class:`~dllm_decode.engine.request.Request`.
            on_done: likewise.
            **overrides: settings of :class:`GenerationConfig` for these.
        """
        config = fit_config(self.model, self.config.replace(**overrides) if overrides else self.config)
        policy = self._bound(config)
        listed = several(prompts)
        where = places_of(len(listed), num_samples, places)
        laid = [
            row for row in zip(*lay_out(self.model, listed, chat, config), strict=True) for _ in range(num_samples)
        ]
        meta: dict[str, Any] = {}
        if trace:
            meta |= {"policy": spell(self.policy), "cache": self.cache, "model": self.model.name}
            meta["config"] = config.to_dict()
        return [
            Request(
                ids,
                offset,
                policy,
                self.cache,
                config,
                place,
                row,
                trace,
                {**meta, "row": place[0], "sample": place[1]},
                on_step,
                on_done,
            )
            for row, ((ids, offset), place) in enumerate(zip(laid, where, strict=True))
        ]

    def feed(self, requests: Sequence[Request], batch_size: int = BATCH_SIZE, isolate: bool = False) -> Feed:
        """Decode requests of this sampler (at least one) in any number: :meth:`Feed.outcomes` gives them as they end.

        Args:
            requests: from :meth:`requests`; lengths and seeds may differ.
            batch_size: rows decoded together.
            isolate: a row that fails has its error in its outcome; without it the error ends the run.
        """
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise DllmError(f"batch_size is {batch_size!r}; give a whole number from 1 up.")
        if not requests:
            raise DllmError("no request was given; make some with DiffusionSampler.requests.")
        return Feed.of(self.model, requests, batch_size, isolate)

    def check(self, prompts: Prompt | Sequence[Prompt], *, chat: bool | None = None, **overrides: Any) -> None:
        """Raise what :meth:`generate` would raise for these prompts and settings, without a forward."""
        self.requests(prompts, chat=chat, **overrides)

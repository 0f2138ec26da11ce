"""DiffusionSampler: prompts in, text out, under any policy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.canvas import Rows
from dllm_decode.engine.cost import memory_errors_explained
from dllm_decode.engine.events import StepEvent
from dllm_decode.engine.forward import CACHES, Forwarder, can_shadow
from dllm_decode.engine.loop import Run
from dllm_decode.engine.policy_file import policy_string
from dllm_decode.engine.randomness import Place, places_of, row_generator
from dllm_decode.engine.result import Ending, GenerationResult
from dllm_decode.engine.step import canvas_device
from dllm_decode.engine.streaming import StreamRelay
from dllm_decode.engine.trace import Trace
from dllm_decode.errors import DllmError
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.interface.text import token_ids
from samplers import Composition, EosStop, Policy, Prediction, Setting, View, parse_policy, spell
from samplers.contract import Scope
from samplers.registry import suggest

#: A prompt: text, chat messages, or token ids.
Prompt = str | Sequence[dict[str, str]] | Sequence[int]


class DiffusionSampler:
    """Decodes masked-diffusion language models with a pluggable policy.

    Args:
        model: a :class:`~dllm_decode.interface.model.DenoisingModel`, or what :func:`load_model` takes.
        policy: a policy, a composition ``AdaBlock() | LocalLeap()``, its string ``"adablock+localleap:radius=4"``, or
            ``"@FILE"``, a policy file (of which only the policy is taken).
        cache: ``"none"``, ``"prefix"`` or ``"dual"``.
        config: default settings of every generation; keyword overrides may be given to :meth:`generate`.

    Raises:
        PolicyError: parts clash, or need what the cache does not offer.
        DllmError: unknown cache, or one the model does not support.
    """

    def __init__(
        self,
        model: DenoisingModel | str | Path,
        policy: Policy | str = "threshold",
        cache: str = "none",
        config: GenerationConfig | None = None,
    ) -> None:
        if isinstance(model, (str, Path)):
            from dllm_decode.models import load_model  # transformers' model classes take seconds to import

            model = load_model(model)
        self.model = model
        if not isinstance(self.model, DenoisingModel):
            raise DllmError(
                f"{model!r:.80} is no model; give a name, a folder or a NativeModel, or a function in CallableModel."
            )
        self.config = config if config is not None else GenerationConfig()
        if not isinstance(self.config, GenerationConfig):
            raise DllmError(f"config is {config!r:.80}; give a GenerationConfig(...).")
        if cache not in CACHES:
            raise DllmError(f"unknown cache {cache!r}{suggest(str(cache), CACHES)}; use one of {', '.join(CACHES)}.")
        if cache != "none" and not self.model.supports_cache:
            raise DllmError(
                f"model {self.model.name!r} keeps no keys and values, so cache={cache!r} cannot work; "
                "use cache='none'."
            )
        self.cache = cache
        self.policy = Composition.of(parse_policy(policy_string(policy) if isinstance(policy, str) else policy))
        self._bound(self.config)  # clashes are found here, not in the middle of a run

    def __repr__(self) -> str:
        return f"DiffusionSampler({self.model.name!r}, policy={spell(self.policy)!r}, cache={self.cache!r})"

    def _bound(self, config: GenerationConfig) -> Composition:
        tokenizer = self.model.tokenizer
        policy = self.policy
        if config.early_stop and self.model.eos_ids:
            policy = policy.beside(EosStop())
        setting = Setting(
            mask_id=self.model.mask_id,
            eos_ids=self.model.eos_ids,
            vocab_size=self.model.vocab_size,
            cache=self.cache,
            shift=self.model.shift,
            block_length=config.block_length,
            max_new_tokens=None if config.infill else config.max_new_tokens,
            temperature=config.temperature,
            model_name=self.model.name,
            token_ids=None if tokenizer is None else tokenizer.encode,
            delimiter_ids=_delimiter_ids(self.model),
            shadows=can_shadow(self.model),
            family=self.model.family,
        )
        bound = policy.bind(setting)
        if Scope.REST in bound.opening_scope and self.cache != "none" and config.refresh != 1:
            raise DllmError(
                f"{spell(self.policy)} reads the whole row on every opening forward, which refresh={config.refresh!r} "
                "shortens; use refresh=1."
            )
        if config.branches == "tree" and not self.model.supports_branches:
            raise DllmError(
                f"model {self.model.name!r} cannot hide tokens of one row from each other, so branches='tree' cannot "
                "work; use 'auto' or 'expand'."
            )
        bad = [i for i in config.suppress_tokens if i >= self.model.vocab_size]
        if bad:
            raise DllmError(f"suppress_tokens holds {bad[0]}, but the vocabulary has {self.model.vocab_size} tokens.")
        return bound

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
            **overrides: settings of :class:`GenerationConfig` for this call.
        """
        config = self.config.replace(**overrides) if overrides else self.config
        several = self._several(prompts)
        rows = places_of(len(several), num_samples, places)
        run = self._begin([prompt for prompt in several for _ in range(num_samples)], chat, config, rows)
        if streamer is not None and len(run.traces) > 1:
            raise DllmError(
                f"a streamer follows one prompt, but {len(run.traces)} were given; call generate per prompt."
            )
        began = time.perf_counter()
        run.events = on_step is not None or streamer is not None
        run.on_prediction = on_prediction
        relay = None if streamer is None else StreamRelay(streamer)
        with memory_errors_explained(self.model, len(run.traces), run.rows.slots.shape[1], self.cache, config):
            for event in run.steps():
                if on_step is not None:
                    on_step(event)
                if relay is not None:
                    relay(event)
        return self._result(run, time.perf_counter() - began)

    def stream(self, prompt: Prompt, *, chat: bool | None = None, **overrides: Any) -> Iterator[StepEvent]:
        """Decode one prompt and yield a :class:`StepEvent` after every forward; ``event.settled`` cells are final."""
        config = self.config.replace(**overrides) if overrides else self.config
        run = self._begin([prompt], chat, config, [(0, 0)])
        run.events = True
        return run.steps()

    @staticmethod
    def _several(prompts: Any) -> list[Prompt]:
        """One prompt or a list of prompts -> a list of prompts."""
        if isinstance(prompts, str):
            return [prompts]
        if hasattr(prompts, "tolist"):  # ids as a tensor or an array
            prompts = prompts.tolist()
        if not isinstance(prompts, Sequence):
            raise DllmError(f"{prompts!r:.80} is no prompt; pass text, chat messages or token ids, one or several.")
        prompts = list(prompts)
        if not prompts:
            raise DllmError("no prompt was given; pass text, chat messages or token ids.")
        if isinstance(prompts[0], (int, dict)):
            return [prompts]
        return prompts

    def check(self, prompts: Prompt | Sequence[Prompt], *, chat: bool | None = None, **overrides: Any) -> None:
        """Raise what :meth:`generate` would raise for these prompts and settings, without a forward."""
        config = self.config.replace(**overrides) if overrides else self.config
        self._bound(config)
        self._lay_out(self._several(prompts), chat, config)

    def _lay_out(
        self, prompts: list[Prompt], chat: bool | None, config: GenerationConfig
    ) -> tuple[list[list[int]], list[int]]:
        """Whole rows (prompt, then masks) and the slot of each row's first cell; everything wrong is found here."""
        model, mask = self.model, self.model.mask_id
        whole, offsets = [], []
        for number, prompt in enumerate(prompts):
            ids = self._encode(prompt, chat, number)
            masks = [i for i, token in enumerate(ids) if token == mask]
            if masks and not config.infill:
                raise DllmError(
                    f"prompt {number} holds the mask token {mask} at position {masks[0]}; "
                    "pass infill=True to decode it, or remove it."
                )
            offset = masks[0] if masks else len(ids)
            row = ids + [mask] * config.max_new_tokens
            if offset == len(row):
                raise DllmError(f"prompt {number} has nothing to decode; give it masks or max_new_tokens above 0.")
            if model.max_length is not None and len(row) > model.max_length:
                raise DllmError(
                    f"prompt {number} has {len(ids)} tokens and {config.max_new_tokens} are to be generated, but "
                    f"{model.name} was made for {model.max_length} in all; shorten one of them."
                )
            whole.append(row)
            offsets.append(offset)
        return whole, offsets

    @torch.no_grad()
    def _begin(
        self, prompts: list[Prompt], chat: bool | None, config: GenerationConfig, places: Sequence[Place]
    ) -> Run:
        """Check everything that can be wrong, then lay out the rows."""
        policy = self._bound(config)
        model, mask = self.model, self.model.mask_id
        whole, offsets = self._lay_out(prompts, chat, config)
        rows = Rows.begin(whole, offsets, mask, model.pad_id, canvas_device(model, policy))
        meta = {"policy": spell(self.policy), "cache": self.cache, "model": model.name, "config": config.to_dict()}
        traces = [
            Trace(row[:o], row[o:], mask, meta={**meta, "row": prompt, "sample": sample})
            for row, o, (prompt, sample) in zip(whole, offsets, places, strict=True)
        ]
        generators = tuple(row_generator(config.seed, place) for place in places)
        width = max(len(row) - o for row, o in zip(whole, offsets, strict=True))
        forwarder = Forwarder(model, policy, config, self.cache, len(whole), max(map(len, whole)))
        return Run(model, policy, config, rows, forwarder, traces, generators, width)

    def _encode(self, prompt: Prompt, chat: bool | None, number: int) -> list[int]:
        tokenizer, vocab = self.model.tokenizer, self.model.vocab_size
        ids = None if isinstance(prompt, str) else token_ids(prompt)
        if ids is not None:
            wrong = [t for t in ids if not 0 <= t < vocab]
            if wrong:
                raise DllmError(f"prompt {number} holds token id {wrong[0]}, but the vocabulary is 0..{vocab - 1}.")
            return ids
        if tokenizer is None:
            raise DllmError(f"model {self.model.name!r} has no tokenizer; give prompt {number} as token ids.")
        return tokenizer.encode_prompt(prompt, tokenizer.chat_template is not None if chat is None else chat)

    def _result(self, run: Run, seconds: float) -> GenerationResult:
        rows, infill = run.rows, run.config.infill
        tokens = rows.cells(run.width).tolist()
        sequences = [row[:n] for row, n in zip(tokens, rows.length.tolist(), strict=True)]
        ends = [
            Ending.of(
                sequence, [token != trace.mask_id for token in trace.canvas[: len(sequence)]], self.model.eos_ids
            )
            for sequence, trace in zip(sequences, run.traces, strict=True)
        ]
        tokenizer = self.model.tokenizer
        texts = None
        if tokenizer is not None:
            heads = [trace.prompt if infill else [] for trace in run.traces]
            rows_read = zip(heads, sequences, ends, strict=True)
            texts = [tokenizer.decode([*head, *s[: end.cells]]) for head, s, end in rows_read]
        return GenerationResult(
            sequences=sequences,
            texts=texts,
            nfe=rows.step.tolist(),
            full_forwards=rows.full_forwards.tolist(),
            rows_forwarded=rows.rows_forwarded.tolist(),
            tokens_forwarded=rows.tokens_forwarded.tolist(),
            content_tokens=[end.content for end in ends],
            until_eos_tokens=[end.until_eos for end in ends],
            canvas_tokens=[end.canvas for end in ends],
            trace=run.traces,
            calls=run.forwarder.calls,
            seconds=seconds,
            model_seconds=run.forwarder.seconds,
            discarded_forwards=run.forwarder.step.discarded,
        )


def _delimiter_ids(model: DenoisingModel) -> tuple[int, ...]:
    """AdaBlock's default delimiters: the family's published list if the vocabulary is the family's, else the newline.

    A small model of the family, or one with another tokenizer, has other tokens at those ids.
    """
    newline = [] if model.tokenizer is None else model.tokenizer.encode("\n")
    listed = model.delimiter_ids
    if listed and max(listed) < model.vocab_size and (model.tokenizer is None or newline == [listed[0]]):
        return listed
    return tuple(newline) if len(newline) == 1 else ()

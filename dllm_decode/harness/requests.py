"""What a generation request of the harness asks for, and the text it gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dllm_decode.engine.randomness import Place
from dllm_decode.errors import DllmError
from dllm_decode.harness.arguments import ModelArguments

DEFAULT_CANVAS = 256  # the harness's own default where a task says nothing


@dataclass(frozen=True)
class Wish:
    """How one request is to be decoded; requests of equal wishes are decoded together.

    Attributes:
        canvas: cells. ``until``: strings that end the text.
        sampling: settings of :class:`GenerationConfig` the task asks for (temperature, top_p, top_k).
    """

    canvas: int
    until: tuple[str, ...] = ()
    sampling: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, kwargs: Mapping[str, Any], args: ModelArguments) -> Wish:
        """Read a task's ``generation_kwargs``; model arguments win over them.

        Raises:
            DllmError: a value of the wrong kind.
        """
        until = kwargs.get("until") or []
        until = [until] if isinstance(until, str) else list(until)
        if not all(isinstance(text, str) for text in until):
            raise DllmError(f"a task's until is {until!r}; give strings in its generation_kwargs.")
        names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
        asked = next((kwargs[name] for name in names if kwargs.get(name) is not None), DEFAULT_CANVAS)
        canvas = args.max_new_tokens or asked
        if not isinstance(canvas, int) or isinstance(canvas, bool) or canvas < 1:
            raise DllmError(f"a task's max_gen_toks is {canvas!r}; give a whole number from 1 up.")
        sampling: dict[str, float] = {}
        if kwargs.get("do_sample") or (kwargs.get("do_sample") is None and kwargs.get("temperature")):
            # do_sample without a temperature is the convention for temperature 1
            wanted = {"temperature": kwargs.get("temperature", 1.0), **{n: kwargs.get(n) for n in ("top_p", "top_k")}}
            sampling = {n: v for n, v in wanted.items() if v is not None and n not in args.given}
        return cls(
            canvas, () if args.escape_until else tuple(text for text in until if text), tuple(sorted(sampling.items()))
        )


def places_in_task(requests: Sequence[Any]) -> list[Place]:
    """Each request's document within its task, whichever rank has it, and how often it was asked before."""
    asked: Counter[tuple[Any, int]] = Counter()
    places = []
    for at, request in enumerate(requests):
        document = getattr(request, "doc_id", None)
        index = at if document is None else int(document)
        name = getattr(request, "task_name", None), index
        places.append((index, asked[name]))
        asked[name] += 1
    return places


@dataclass
class Tally:
    """Cost of answers, as :class:`~dllm_decode.engine.result.GenerationResult` counts it; repeats count once."""

    requests: int = 0
    nfe: int = 0
    rows_forwarded: int = 0
    tokens_forwarded: int = 0
    content_tokens: int = 0
    canvas_tokens: int = 0
    seconds: float = 0.0

    def merge(self, other: Tally) -> None:
        """Add another's counts (those of another rank or batch)."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def figures(self) -> dict[str, float]:
        """Counts and the ratios of them that are usually wanted; seconds add up over the ranks."""
        return {
            **vars(self),
            "nfe_per_request": self.nfe / max(1, self.requests),
            "content_tokens_per_forward": self.content_tokens / max(1, self.nfe),
            "content_tokens_per_second": self.content_tokens / max(1e-9, self.seconds),
        }

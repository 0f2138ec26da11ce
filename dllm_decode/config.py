"""GenerationConfig: what is generated, whatever the policy and the model."""

from __future__ import annotations

import dataclasses
import difflib
import json
from dataclasses import dataclass
from typing import Any, Literal

from dllm_decode.errors import DllmError

#: Cells per block when nothing says otherwise, everywhere.
BLOCK_LENGTH = 32
CACHES = ("none", "prefix", "dual", "block")
CACHE_DTYPES = ("int8", "fp8")
HOTTEST = 1e6  #: temperatures above are uniform draws, and overflow


class GenerationConfigError(DllmError):
    """A generation setting is unknown or out of range."""


@dataclass(frozen=True)
class GenerationConfig:
    """Settings of a generation, frozen and JSON-serialisable.

    Attributes:
        max_new_tokens: cells to generate after each prompt.
        block_length: cells per semi-autoregressive block (the last may be shorter); ``None`` = the whole canvas.
        temperature: 0 is greedy; above, tokens are drawn by Gumbel-max from ``softmax(logits / temperature)``.
        top_p, top_k: keep the smallest set of tokens whose probability passes ``top_p``, or the ``top_k`` best.
        seed: of everything random; a row draws from (seed, index of its prompt, number of its sample) alone.
        guidance: LLaDA's classifier-free guidance scale w; logits become ``u + (w + 1)(c - u)`` with ``u`` from the
            canvas whose prompt is masked. 0 = off; otherwise every forward has two rows per row.
        suppress_tokens: ids whose logits are -inf everywhere (LLaDA's ``logits_eos_inf`` with the eos id).
        stop: texts that end a row: neither they nor what stands behind them is in its text.
        early_stop: stop a row once its text has ended; the rest of the canvas is filled with that token.
        infill: also decode mask tokens inside the prompts (otherwise refused).
        infill_ends: when infilling, propose end-of-text tokens also in holes that have given text behind them.
        confidence: probability the confidence is read from: ``"clean"`` softmax of the plain logits (LLaDA),
            ``"filtered"`` after temperature, top-p and top-k (Dream), or ``"auto"`` = as the model's own sampler.
        precision: ``"float32"``, or ``"reference"`` = a materialised float64 softmax, for comparison.
        refresh: with a cache, a block's opening forward covers the whole row every ``refresh`` blocks (1 = always, the
            papers' rule; ``"window"`` = only in the first block). The other opening forwards recompute the finished
            block and ``refresh_window`` cells on either side of the new one: cheaper, and staler.
        refresh_window: see ``refresh``.
        cache_dtype: ``"int8"`` or ``"fp8"``: keys and values are kept in 8 bits, with a scale per slot and head, which
            is not exact; for rows whose cache memory does not hold. ``None`` = as the model computes them.
        branches: how draft canvases are forwarded: as extra rows (``"expand"``), as one row with block-diagonal
            visibility (``"tree"``), or ``"auto"`` (tree over a cache, expand without).
        max_wait: forwards in a row that may bring a row's block no nearer to its end before the policy is stopped;
            ``None`` = the block's cells and 32 more (and what a schedule of the policy's spends).
    """

    max_new_tokens: int = 128
    block_length: int | None = BLOCK_LENGTH
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    seed: int = 0
    guidance: float = 0.0
    suppress_tokens: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    early_stop: bool = True
    infill: bool = False
    infill_ends: bool = False
    confidence: Literal["auto", "clean", "filtered"] = "auto"
    precision: Literal["float32", "reference"] = "float32"
    refresh: int | Literal["window"] = 1
    refresh_window: int = 0
    cache_dtype: str | None = None
    branches: Literal["auto", "expand", "tree"] = "auto"
    max_wait: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name, what in (("suppress_tokens", "a tuple of token ids"), ("stop", "one or more texts, none empty")):
            if not isinstance(getattr(self, name), (list, tuple)):
                self._refuse(name, what)
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not all(isinstance(text, str) and text for text in self.stop):
            self._refuse("stop", "one or more texts, none empty")
        least = 0 if self.infill else 1
        self._whole("max_new_tokens", least)
        self._whole("block_length", 1, optional=True)
        self._whole("top_k", 1, optional=True)
        self._whole("max_wait", 1, optional=True)
        self._whole("seed", 0)
        self._whole("refresh_window", 0)
        if self.refresh != "window":
            self._whole("refresh", 1, or_else="'window'")
        if not (_is_number(self.temperature) and 0 <= self.temperature <= HOTTEST):
            self._refuse("temperature", f"a number from 0 (greedy) to {HOTTEST:.0f}")
        if self.top_p is not None and not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            self._refuse("top_p", "a number above 0 and at most 1, or None")
        if not (_is_number(self.guidance) and 0 <= self.guidance <= HOTTEST):
            self._refuse("guidance", f"a number from 0 (off) to {HOTTEST:.0f}")
        for name in ("early_stop", "infill", "infill_ends"):
            if not isinstance(getattr(self, name), bool):
                self._refuse(name, "True or False")
        for name, choices in (
            ("confidence", ("auto", "clean", "filtered")),
            ("precision", ("float32", "reference")),
            ("branches", ("auto", "expand", "tree")),
            ("cache_dtype", (None, *CACHE_DTYPES)),
        ):
            if getattr(self, name) not in choices:
                self._refuse(name, "one of " + ", ".join(map(str, choices)))
        if any(not isinstance(i, int) or isinstance(i, bool) or i < 0 for i in self.suppress_tokens):
            self._refuse("suppress_tokens", "a tuple of token ids")

    def _whole(self, name: str, least: int, optional: bool = False, or_else: str = "None") -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        most = (2**63 if name == "seed" else 2**31) - 1
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole and least <= value <= most):
            other = f", or {or_else}" if optional or or_else != "None" else ""
            self._refuse(
                name, f"a whole number from {least} {f'to {most}' if whole and value > most else 'up'}{other}"
            )

    def _refuse(self, name: str, allowed: str) -> None:
        raise GenerationConfigError(f"{name} is {getattr(self, name)!r:.80}; give {allowed}.")

    def replace(self, **changes: Any) -> GenerationConfig:
        """A copy with some settings changed; unknown names raise with a suggestion."""
        return self.from_dict({**vars(self), **changes})

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return {**vars(self), "suppress_tokens": list(self.suppress_tokens), "stop": list(self.stop)}

    def to_json(self) -> str:
        """The settings as one JSON object."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> GenerationConfig:
        """Read settings back; unknown names raise with a suggestion."""
        known = [f.name for f in dataclasses.fields(cls)]
        for name in settings:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise GenerationConfigError(f"unknown generation setting {name!r}{hint}; known: {', '.join(known)}.")
        return cls(**settings)

    @classmethod
    def from_json(cls, text: str) -> GenerationConfig:
        """Read the settings of one JSON object."""
        try:
            settings = json.loads(text)
        except json.JSONDecodeError as error:
            raise GenerationConfigError(f"the generation settings are no JSON ({error}); give one object.") from error
        if not isinstance(settings, dict):
            raise GenerationConfigError(f"the generation settings are a {type(settings).__name__}; give one object.")
        return cls.from_dict(settings)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

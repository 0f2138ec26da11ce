"""What decoding with a filter gives, next to its rivals and to the oracle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.filter_training.collect import STATIC, Ask, batches, contents
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.lab.metrics import wilson
from dllm_decode.tasks import score
from samplers import EGP, Policy

#: Told what is going on: a stage's name, how much of it is done since the last call, and its size.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Outcome:
    """What decoding the test prompts with a policy gave.

    Attributes:
        policy: in words. ``prompts``: how many.
        nfe: mean forwards per prompt. ``tpf``: content tokens over forwards.
        same: share of prompts whose content is the static decoding's.
        correct: right answers, or ``None`` without a scorer.
    """

    policy: str
    prompts: int
    nfe: float
    tpf: float
    same: float
    correct: int | None

    @property
    def accuracy(self) -> float | None:
        """Share of right answers."""
        return None if self.correct is None else self.correct / self.prompts

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain JSON values, with the accuracy's Wilson 95 % interval."""
        facts = dataclasses.asdict(self)
        if self.correct is not None:
            facts |= {"accuracy": self.accuracy, "interval": list(wilson(self.correct, self.prompts))}
        return facts


def judge(
    model: DenoisingModel,
    asks: Sequence[Ask],
    policies: dict[str, Policy],
    config: GenerationConfig,
    cache: str,
    batch_size: int,
    tell: Progress,
) -> list[Outcome]:
    """Decode the prompts statically, with the oracle, and with each policy.

    Args:
        model: what decodes.
        asks: the prompts.
        policies: by the name to report them under.
        config: whose ``max_new_tokens`` each prompt overrides.
        cache: of all decodings.
        batch_size: prompts decoded together.
        tell: see :data:`Progress`.
    """
    names = ["static", "egp (oracle)", *policies]
    rows: dict[str, list[tuple[int, int, bool, bool]]] = {name: [] for name in names}
    scored = all(ask.sample is not None for ask in asks) and model.tokenizer is not None
    for batch in batches(asks, batch_size):
        prompts, settings = [ask.prompt for ask in batch], config.replace(max_new_tokens=batch[0].cells)
        static = DiffusionSampler(model, STATIC, cache, settings).generate(prompts)
        oracle = EGP(tuple(map(tuple, static.sequences)))
        wanted = contents(static)
        for name in names:
            policy = policies.get(name, oracle)
            result = static if name == "static" else DiffusionSampler(model, policy, cache, settings).generate(prompts)
            for row, content in enumerate(contents(result)):
                sample = batch[row].sample
                right = sample is not None and result.texts is not None and score(sample, result.texts[row])
                rows[name].append((result.nfe[row], len(content), content == wanted[row], right))
        tell("judging", len(batch), len(asks))
    outcomes = []
    for name, found in rows.items():
        nfe, content_tokens, same, correct = (sum(column) for column in zip(*found, strict=True))
        n = len(found)
        tpf = content_tokens / max(1, nfe)
        outcomes.append(Outcome(name, n, nfe / n, tpf, same / n, correct if scored else None))
    return outcomes

"""Does FreeDave decode exactly as the rule it accelerates?  Random models, prompts, blocks, drafts, orders, caches.

    python -m scripts.check_lossless --cases 10000 --processes 2 --journal lossless.jsonl    # exits 1 if any differs

Both runs get the same ragged batch under the same cache.  A row differs when its tokens, or the order in which they
were committed, do.  Whether a difference is the rule's or the rounding's (draft rows and plain rows go through
different kernels) is settled by doing the case again in float64, where a near tie of float32 falls the same way twice:
then it is counted as a tie, apart and never as equal; what differs in float64 too is a failure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
import typer

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.result import GenerationResult
from dllm_decode.engine.sampler import DiffusionSampler
from scripts.many_cases import Cases, JournalFile, Processes, Seed, Verdict, finish, try_cases
from scripts.random_models import BLOCK_FAMILIES, known_model

VOCABULARY, EOS, MASK = 32, 30, 31
#: The paper's rule half of the time, and any other deterministic rule.
STEPS = ("topk:k=1",) * 5 + (
    "topk:k=2",
    "topk:k=3,score=margin",
    "topk:k=1,score=entropy",
    "topk:steps=3",
    "threshold:threshold=0.5",
    "factor:factor=1.5",
    "localleap:anchor_threshold=0.5,relaxed_threshold=0.3,radius=2",
    "ccd",
    "ccdds:history=2,candidates=3",
)
#: A number, or chosen as if a further canvas cost so much.
DRAFTS = (
    *("1", "2", "3", "4", "4", "8"),
    *("auto,row_cost=0.02", "auto,row_cost=0.1", "auto,row_cost=0.3", "auto,row_cost=0.3,drafts_at_most=3"),
)
#: What may stand beside a rule; SchED and Prophet cannot read every cell under the dual cache unless stale.
BESIDE = ("",) * 8 + (
    "adablock:delimiters=3/7/11,delimiter_threshold=0.05",
    "sched:high=3.0,low=0.5,stale=true",
    "prophet:early=3.0,middle=2.0,late=1.0,stale=true,max_change=0.5",
    "eosstop:when=block",
    "defereos",
    "eotp",
)


@dataclass(frozen=True)
class Case:
    """One comparison; prints as what is needed to repeat it."""

    family: str
    layers: int
    model_seed: int
    step: str
    beside: str
    drafts: str
    order: str
    cross_block: bool
    cache: str
    prompts: tuple[tuple[int, ...], ...]
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def draw(cls, random: Random) -> Case:
        """A random case."""
        order = random.choice(("confidence", "confidence", "left_to_right"))
        cache = random.choice(("none", "prefix", "dual", "block"))
        family = random.choice(BLOCK_FAMILIES if cache == "block" else ("llada", "llada", "dream"))
        cross = cache == "none" and random.random() < 0.5
        infill = random.random() < 0.1
        step = "topk:k=1" if order == "left_to_right" else random.choice(STEPS)
        beside = random.choice(BESIDE)
        remembers = step.startswith(("ccd", "topk:steps"))
        if (cross and beside.startswith("adablock")) or (beside == "eotp" and (infill or remembers)):
            beside = ""  # they clash, or (see FreeDave) are not promised to agree behind a cut
        if cache == "block" and beside.startswith(("sched", "prophet", "eotp")):
            beside = ""  # they read what such a model does not predict
        length = random.randint(1, 20)
        token = (lambda: random.randrange(VOCABULARY)) if infill else (lambda: random.randrange(VOCABULARY - 1))
        return cls(
            family=family,
            layers=random.randint(1, 2),
            model_seed=random.randrange(500),
            step=step,
            beside=beside,
            drafts=random.choice(DRAFTS),
            order=order,
            cross_block=cross,
            cache=cache,
            prompts=tuple(
                tuple(token() for _ in range(random.randint(1, 10))) for _ in range(random.choice((1, 1, 2, 3)))
            ),
            settings={
                "max_new_tokens": length,
                "block_length": random.choice(
                    (None, 1, 2, 4, 8) if cache == "block" else (None, 1, 2, 3, 4, 5, 8, 16)
                ),
                "early_stop": random.random() < 0.5,
                "branches": random.choice(("auto", "expand", "tree")),
                "guidance": random.choice((0.0,) * 9 + (0.7,)),
                "infill": infill,
            },
        )

    def policies(self) -> tuple[str, str]:
        """The rule alone, and FreeDave with it."""
        plain = self.step + (",score=position" if self.order == "left_to_right" else "")
        options = f"step=({self.step}),drafts={self.drafts},order={self.order},cross_block={self.cross_block}"
        fast = f"freedave:{options}"
        return (f"{self.beside}+{plain}", f"{self.beside}+{fast}") if self.beside else (plain, fast)

    def run(self, dtype: torch.dtype = torch.float32) -> tuple[GenerationResult, GenerationResult]:
        """Decode the batch both ways."""
        model = known_model(
            self.family, VOCABULARY, 64, layers=self.layers, seed=self.model_seed, eos=EOS, dtype=dtype
        )
        config = GenerationConfig(**self.settings)
        prompts = [list(prompt) for prompt in self.prompts]
        plain, fast = (
            DiffusionSampler(model, policy, self.cache, config).generate(prompts) for policy in self.policies()
        )
        return plain, fast


def differing(plain: GenerationResult, fast: GenerationResult) -> list[int]:
    """Rows whose tokens or order of commits differ, or that needed more forwards with drafts than without.

    Cells that EoTP cuts off are no output: with drafts, one that is decided in the very forward that cuts it is not
    recorded, though it was a forward of its own without. Such cells may be missing; none may be added or moved.
    """

    def story(result: GenerationResult, row: int) -> list[tuple[int, int]]:
        return [commit for step in result.trace[row].steps for commit in zip(step.cells, step.new, strict=True)]

    def agree(row: int) -> bool:
        slow, quick, length = story(plain, row), story(fast, row), len(plain.sequences[row])
        return [commit for commit in slow if commit[0] < length or commit in quick] == quick

    return [
        row
        for row in range(len(plain.sequences))
        if plain.sequences[row] != fast.sequences[row] or not agree(row) or plain.nfe[row] < fast.nfe[row]
    ]


def judge(case: Case) -> tuple[str, int, int]:
    """``"same"``, ``"tie"`` or ``"different"``, and the forwards of all rows without and with drafts."""
    plain, fast = case.run()
    verdict = "same"
    if differing(plain, fast):
        verdict = "different" if differing(*case.run(torch.float64)) else "tie"
    return verdict, sum(plain.nfe), sum(fast.nfe)


def judge_number(seed: int, number: int) -> Verdict:
    """The verdict on one case, with the forwards without and with drafts."""
    case = Case.draw(Random(f"{seed}/{number}"))
    kind, plain, fast = judge(case)
    return Verdict(kind, str(case), (plain, fast))


def main(cases: Cases = 10_000, seed: Seed = 0, processes: Processes = 1, journal: JournalFile = None) -> None:
    """Compare FreeDave with the rule it accelerates on random cases."""
    found = try_cases(judge_number, "lossless", cases, seed, processes, journal)
    kinds, (plain, fast) = found.kinds, found.counts
    print(
        f"{cases} cases: {kinds['same']} the same, {kinds['tie']} near ties of float32 (the same in float64), "
        f"{kinds['different']} different; {plain} forwards without drafts, {fast} with."
    )
    finish(found)


if __name__ == "__main__":
    typer.run(main)

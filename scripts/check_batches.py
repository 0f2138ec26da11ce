"""Does a batch of ragged rows decode exactly as each row alone?  Random models, policies, caches, prompts and blocks.

    python -m scripts.check_batches --cases 10000 --processes 2 --journal batches.jsonl    # exits 1 if any row differs

A case is a batch of two to four rows.  A row differs when its tokens, its number of forwards, their cost or any commit
of its trace does.  A batch rounds differently from a row alone: whether a difference is more than that is settled by
doing the case again in float64, where a near tie of float32 falls the same way twice.  Then it is counted as a tie,
apart and never as equal; what differs in float64 too is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Any

import torch
import typer

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.result import GenerationResult
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.errors import DllmError
from filters import FilterNetwork, LearnedFilter
from samplers import EGP, REGISTRY, Composition, EoTP, Learn2PD, PcSampler, Policy, PolicyError, TokenTable, lookup
from samplers.registry import example
from scripts.many_cases import Cases, JournalFile, Processes, Seed, Verdict, finish, try_cases
from scripts.random_models import BLOCK_FAMILIES, known_model

VOCABULARY, EOS, MASK = 40, 38, 39
MODELS, LONGEST = 4, 14
POLICIES = (
    "topk:k=1",
    "topk:k=3,score=entropy",
    "topk:k=2,score=margin",
    "topk:k=2,score=random",
    "topk:steps=4",
    "topk:steps=3,schedule=time",
    "threshold:threshold=0.4",
    "factor:factor=1.5",
    "frechet:margin=-0.2",
    "entropybound:gamma=1.0",
    "entropythreshold:threshold=1.0",
    "hierarchy:threshold=0.6",
    "hierarchy:threshold=0.7,low=0.2,remask=0.5",
    "hierarchy:low=none,remask=0.9+sched:high=3.0,low=0.5",
    "adablock:delimiters=3/7/11,delimiter_threshold=0.05+hierarchy:remask=0.6",
    "pcsampler",
    "saber",
    "saber:least=4+eosstop",
    "credit:threshold=0.5",
    "adablock:delimiters=3/7/11,delimiter_threshold=0.05+credit:threshold=0.6,alpha=2,slots=3",
    "klass:threshold=0.3,divergence=0.5",
    "klass:threshold=0.2,divergence=1.0,history=1,steps=3,since=row",
    "localleap:anchor_threshold=0.5,relaxed_threshold=0.2,radius=2",
    "adablock:delimiters=3/7/11,delimiter_threshold=0.05+threshold:threshold=0.4",
    "adablock:delimiters=5,delimiter_threshold=0.02+localleap:anchor_threshold=0.5,relaxed_threshold=0.2",
    "learn2pd",
    "learn2pd+eotp",
    "egp",
    "threshold:threshold=0.4+eotp",
    "ccd",
    "ccdds",
    "topk:k=1+sched:high=3.0,low=0.5",
    "threshold:threshold=0.6+sched:high=3.0,low=0.5,stale=true",
    "topk:k=1+prophet",
    "topk:k=1+prophet:early=3.0,middle=2.0,late=1.0,stale=true,max_change=0.5",
    "wino:threshold=0.3,threshold_back=0.5",
    "wino:threshold=0.3,twins=lone+sched:high=3.0,low=0.5,stale=true",
    "lopa:branching_factor=3,threshold=0.6",
    "lopa:score=margin,creation=0.5,share=0.5,threshold=0.6+prophet",
    "blockquota:steps=2,threshold=0.4",
    "jointthreshold:threshold=0.4,edit_threshold=0.3,max_post_steps=3",
    "dawn:sink=0.2,edge=0.1,induce=0.4,low=0.3,strong=0.6,layers=1",
    "freedave:drafts=3",
    "freedave:drafts=auto,row_cost=0.2",
    "freedave:drafts=4,order=left_to_right",
    "freedave:step=(threshold:threshold=0.5),drafts=2",
    "defereos+threshold:threshold=0.4",
    "eosstop:when=block+factor",
)


def policies() -> tuple[str, ...]:
    """``POLICIES``, and whatever else is registered, by its entry's example."""
    tried = {name.partition(":")[0] for policy in POLICIES for name in policy.replace("(", "+").split("+")}
    left = [name for name in REGISTRY if name not in tried]
    decides = {name: lookup(name).decide is not Policy.decide for name in left}
    return POLICIES + tuple(("" if decides[name] else "threshold:threshold=0.4+") + example(name) for name in left)


@dataclass(frozen=True)
class Case:
    """One batch; prints as what is needed to repeat it."""

    family: str
    model_seed: int
    policy: str
    cache: str
    prompts: tuple[tuple[int, ...], ...]
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def draw(cls, random: Random) -> Case:
        """A random case that is not refused: a policy that cannot work with a cache or a setting is drawn anew."""
        while True:
            case = cls._draw(random)
            try:
                case.sampler(list(range(len(case.prompts))))
            except (PolicyError, DllmError):
                continue
            return case

    @classmethod
    def _draw(cls, random: Random) -> Case:
        cache, policy = random.choice(("none", "prefix", "dual", "block")), random.choice(policies())
        aims = policy == "egp"  # at rows of one length, with greedy proposals: a drawn one may never be the right one
        infill = not aims and random.random() < 0.15
        words = range(EOS) if not infill else (*range(EOS), *[MASK] * 8)
        settings = {
            "max_new_tokens": random.randint(1, LONGEST),
            "block_length": random.choice((None, 1, 2, 3, 5, 8)),
            "temperature": 0.0 if aims else random.choice((0.0, 0.0, 0.0, 0.7)),
            "seed": random.randint(0, 9),
            "early_stop": random.random() < 0.5,
            "guidance": random.choice((0.0, 0.0, 0.0, 1.0)),
            "branches": random.choice(("auto", "expand", "tree")),
            "infill": infill,
            "refresh": 1 if cache == "none" else random.choice((1, 1, 1, 2, "window")),
            "refresh_window": random.choice((0, 2, 5)),
        }
        return cls(
            family=random.choice(BLOCK_FAMILIES if cache == "block" else ("llada", "dream", "llada", *BLOCK_FAMILIES)),
            model_seed=random.randrange(MODELS),
            policy=policy,
            cache=cache,
            prompts=tuple(
                tuple(random.choice(words) for _ in range(random.randint(1, 9))) for _ in range(random.randint(2, 4))
            ),
            settings=settings,
        )

    def parts(self, rows: list[int]) -> Policy | str:
        """The policy; what has no string is made of the case's own numbers."""
        if self.policy == "egp":
            cells = self.settings["max_new_tokens"]
            aims = [Random(f"{self.model_seed}/{row}") for row in rows]
            return EGP(tuple(tuple(aim.randrange(EOS) for _ in range(cells)) for aim in aims))
        if self.policy.startswith("learn2pd"):
            learned = Learn2PD(random_filter(self.model_seed))
            return Composition.of(learned, EoTP()) if self.policy.endswith("eotp") else learned
        if self.policy == "pcsampler":
            return PcSampler(TokenTable(torch.arange(1, VOCABULARY + 1).double() / 800), decay=0.1, steps=4)
        return self.policy

    def sampler(self, rows: list[int], dtype: torch.dtype = torch.float32) -> DiffusionSampler:
        """What decodes these rows of the batch."""
        model = known_model(self.family, VOCABULARY, 128, layers=2, seed=self.model_seed, eos=EOS, dtype=dtype)
        return DiffusionSampler(model, self.parts(rows), self.cache, GenerationConfig(**self.settings))

    def run(self, rows: list[int], dtype: torch.dtype = torch.float32) -> GenerationResult:
        """Decode some of the rows with the random sources they have in the batch."""
        return self.sampler(rows, dtype).generate([list(self.prompts[row]) for row in rows], places=rows)

    def differing(self, dtype: torch.dtype = torch.float32) -> list[int]:
        """The rows that decode otherwise in the batch than alone."""
        rows = list(range(len(self.prompts)))
        batch = self.run(rows, dtype)
        return [row for row in rows if not same(batch, row, self.run([row], dtype))]


@lru_cache
def random_filter(seed: int) -> LearnedFilter:
    """A filter that accepts about half of what it sees."""
    torch.manual_seed(seed)
    network = FilterNetwork(LONGEST)
    torch.nn.init.normal_(network.linear2.weight)
    return LearnedFilter(network.requires_grad_(False), threshold=0.5)


def same(batch: GenerationResult, row: int, alone: GenerationResult) -> bool:
    """Tokens, forwards, cost and every commit."""

    def story(result: GenerationResult, at: int) -> tuple[Any, ...]:
        return (
            result.sequences[at],
            result.nfe[at],
            result.full_forwards[at],
            result.rows_forwarded[at],
            result.tokens_forwarded[at],
            [(s.step, s.block, s.start, s.end, s.opening, s.cells, s.new, s.length) for s in result.trace[at].steps],
        )

    return story(batch, row) == story(alone, 0)


def judge(seed: int, number: int) -> Verdict:
    """Decode one case both ways."""
    case = Case.draw(Random(f"{seed}/{number}"))
    kind = "same"
    if case.differing():
        kind = "different" if case.differing(torch.float64) else "tie"
    return Verdict(kind, str(case), (len(case.prompts),))


def main(cases: Cases = 10_000, seed: Seed = 0, processes: Processes = 1, journal: JournalFile = None) -> None:
    """Compare batches with single runs; see the module's own text."""
    found = try_cases(judge, "batches", cases, seed, processes, journal)
    print(f"{found.counts[0]} rows in {cases} batches, each decoded alone as well")
    finish(found)


if __name__ == "__main__":
    typer.run(main)

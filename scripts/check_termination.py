"""Does every policy end, whatever the model says?  Random canvases, caches and blocks under adversarial predictions.

    python -m scripts.check_termination --cases 10000 --processes 2 --journal termination.jsonl   # exits 1 if not

The cases are those of ``check_batches``, its policies too; what their models say is replaced: the same token
everywhere, nothing but ties, little beside the mask, end tokens only, certainty, or another opinion at each forward.
A run fails if it leaves a mask, writes the mask token, changes a given token, or has more forwards than its policy can
need.  A policy that stops getting anywhere is stopped by the engine with an error, which fails too; only ``egp`` may
end so, or have more forwards, an oracle that waits until the model says what it knows to be right.
"""

from __future__ import annotations

from random import Random

import torch
import typer
from torch import Tensor

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.errors import DllmError
from dllm_decode.models import NativeModel
from samplers import PolicyError
from scripts.check_batches import EOS, MASK, VOCABULARY, Case
from scripts.many_cases import Cases, JournalFile, Processes, Seed, Verdict, finish, try_cases
from scripts.random_models import known_model

KINDS = ("constant", "equal", "mask", "ends", "certain", "fickle")
#: Forwards per cell of the canvas that no policy needs: WINO may take 30 more for a block.
PER_CELL = 32


class Adversary(NativeModel):
    """A model of ``check_batches`` that says something else."""

    def __init__(self, kind: str, like: NativeModel, seed: int) -> None:
        super().__init__(like.module, mask_id=MASK, eos_ids=(EOS,), name=f"{kind} {like.name}")
        self.kind, self.generator = kind, torch.Generator().manual_seed(seed)

    def head(self, hidden: Tensor) -> Tensor:
        """Fp32 ``[M, V]``: the logits of this kind."""
        logits, kind = super().head(hidden).float(), self.kind
        if kind == "certain":
            return logits * 1e4
        if kind == "fickle":
            return torch.randn(logits.shape, generator=self.generator) * 8
        if kind == "mask":
            return logits.index_fill(1, torch.tensor(MASK), 60.0)
        logits = torch.zeros_like(logits)
        return logits if kind == "equal" else logits.index_fill(1, torch.tensor(EOS if kind == "ends" else 7), 9.0)


def wrong(case: Case, kind: str) -> str | None:
    """What is wrong with a run, or ``None``."""
    like = known_model(case.family, VOCABULARY, 128, layers=2, seed=case.model_seed, eos=EOS)
    model = Adversary(kind, like, case.model_seed)
    rows, prompts = list(range(len(case.prompts))), [list(prompt) for prompt in case.prompts]
    try:
        sampler = DiffusionSampler(model, case.parts(rows), case.cache, GenerationConfig(**case.settings))
        result = sampler.generate(prompts)
    except (PolicyError, DllmError) as error:
        return None if case.policy == "egp" else str(error)
    for row, trace in enumerate(result.trace):
        masks = trace.canvas.count(MASK) + sum(step.inserted[1] for step in trace.steps if step.inserted)
        if MASK in result.sequences[row]:
            return f"row {row} holds a mask"
        if case.policy != "egp" and result.nfe[row] > masks * PER_CELL:
            return f"row {row} took {result.nfe[row]} forwards for {masks} masks"
        if any(old not in (MASK, new) for old, new in zip(trace.canvas, trace.replay(), strict=False)):
            return f"row {row} lost a given token"
    return None


def judge(seed: int, number: int) -> Verdict:
    """Decode one case."""
    random = Random(f"{seed}/{number}")
    case, kind = Case.draw(random), random.choice(KINDS)
    fault = wrong(case, kind)
    return Verdict("different" if fault else "same", f"{kind}: {case}: {fault}", (len(case.prompts),))


def main(cases: Cases = 10_000, seed: Seed = 0, processes: Processes = 1, journal: JournalFile = None) -> None:
    """Decode under adversarial predictions; see the module's own text."""
    found = try_cases(judge, "termination", cases, seed, processes, journal)
    print(f"{found.counts[0]} rows in {cases} batches came to their end")
    finish(found)


if __name__ == "__main__":
    typer.run(main)

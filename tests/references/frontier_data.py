"""Recorded runs of the frontier policies: every ``frontier/<policy>/*.json``, decoded on the checkpoints of baseline.

A case is a run that the released code made: prompt, settings under the reference's own names, and per forward what it
committed and revoked.  Runs in which the reference shows a defect say so in a property of theirs (see the folders'
READMEs); they are excepted by it and counted, never by name.
"""

from __future__ import annotations

from typing import Any

import pytest

from dllm_decode import DiffusionSampler, GenerationConfig, GenerationResult
from dllm_decode.interface.model import DenoisingModel
from samplers import Policy
from tests.references.golden_data import golden_json, golden_model, golden_path

Case = dict[str, Any]
#: One forward: ``{position: token}`` of what it wrote, and the positions that it made masks again.
Written = tuple[dict[int, int], set[int]]
#: Properties of a run in which the reference does what is not reproduced.
DEFECTS = ("masks_left", "first_cell_stale", "revokes_settled")


def cases_of(policy: str) -> list[Case]:
    """All recorded runs in a policy's folder, whatever its files are called."""
    found: list[Case] = []
    for path in sorted(golden_path(f"frontier/{policy}").glob("*.json")):
        said = golden_json(f"frontier/{policy}/{path.name}")
        found += [case for case in said if "steps" in case] if isinstance(said, list) else []
    assert found, f"no recorded runs below frontier/{policy}"
    return found


def defect(case: Case) -> str | None:
    """The property that says that this run shows a defect of the reference, or ``None``."""
    return next((name for name in DEFECTS if case.get(name)), None)


def recorded(policy: str, defects: bool = False) -> list[Any]:
    """Test parameters: the runs without a defect, or with ``defects`` the others, whose ids name the property."""
    cases = [case for case in cases_of(policy) if bool(defect(case)) == defects]
    return [pytest.param(case, id=case["name"] + (f"-{defect(case)}" if defects else "")) for case in cases]


def model_of(case: Case) -> DenoisingModel:
    """The tiny checkpoint on which a case was recorded."""
    return golden_model(f"baseline/tiny-{case['model']}")


def decode(
    case: Case,
    policy: Policy,
    model: DenoisingModel | None = None,
    prompts: list[list[int]] | None = None,
    **settings: Any,
) -> GenerationResult:
    """Decode a case's prompt (or other prompts under its settings), without an early stop; ``settings`` beside its."""
    given = case["settings"]
    config = GenerationConfig(
        max_new_tokens=given.get("gen_length") or given["max_new_tokens"],
        block_length=given.get("block_length"),
        early_stop=False,
        **settings,
    )
    sampler = DiffusionSampler(model or model_of(case), policy, given.get("cache", "none"), config)
    return sampler.generate(prompts or case["prompt_ids"])


def story(result: GenerationResult, first: int, row: int = 0) -> list[Written]:
    """What each of our forwards did, in absolute positions; ``first`` is the prompt's length."""
    out: list[Written] = []
    for step in result.trace[row].steps:
        new = {cell + first: token for cell, token in zip(step.cells, step.new, strict=True)}
        mask = result.trace[row].mask_id
        out.append(({p: t for p, t in new.items() if t != mask}, {p for p, t in new.items() if t == mask}))
    return out


def told(case: Case) -> list[tuple[Written, dict[str, Any]]]:
    """What each forward of the reference did, beside the entry itself; forwards it wasted are left out.

    A call without a commit or revocation counts as wasted where the case says how many there were.
    """
    out = []
    for step in case["steps"]:
        (row,) = step["rows"]
        out.append(((dict(zip(row["pos"], row["tok"], strict=True)), {at for at, *_ in step["revoked"]}), step))
    if "wasted_forwards" in case:
        kept = [(written, step) for written, step in out if any(written)]
        assert len(out) - len(kept) == case["wasted_forwards"]
        return kept
    return out


def assert_same(case: Case, result: GenerationResult, confidence: bool = True) -> None:
    """Tokens, forwards, and per forward its size, commits (with their confidences) and revocations."""
    first, theirs = len(case["prompt_ids"][0]), told(case)
    assert story(result, first) == [written for written, _ in theirs]
    assert result.sequences[0] == case["output_ids"][0][first:]
    assert result.nfe[0] == len(theirs) == case["n_forward"] - case.get("wasted_forwards", 0)
    for mine, (_, step) in zip(result.trace[0].steps, theirs, strict=True):
        if "forwarded" in step:
            assert mine.tokens == step["forwarded"]
        if confidence:
            (row,) = step["rows"]
            said = dict(zip(row["pos"], row["conf"], strict=True))
            sure = dict(zip(mine.cells, mine.confidence, strict=True))
            assert [sure[at - first] for at in said] == pytest.approx(list(said.values()), abs=2e-5)


def assert_completes(case: Case, result: GenerationResult) -> int:
    """For a run with a defect: ours leaves no mask.  Returns how many of the first forwards are the reference's."""
    assert defect(case) and case["mask_id"] not in result.sequences[0]
    mine = story(result, len(case["prompt_ids"][0]))
    theirs = [written for written, _ in told(case)]
    same = (a == b for a, b in zip(mine, theirs, strict=False))
    return next((at for at, equal in enumerate(same) if not equal), min(len(mine), len(theirs)))

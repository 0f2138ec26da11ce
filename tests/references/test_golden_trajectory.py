"""FreeDave, CCD, SchED and Prophet against recorded runs of their reference code: tokens, forwards, commits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dllm_decode import DiffusionSampler, GenerationConfig, GenerationResult
from samplers import FreeDave, FreeDavePlus, Policy, Prophet, SchED, Threshold, TopK
from samplers.freedave.chain import furthest
from tests.references.golden_data import golden_json, golden_model
from tests.references.quirks import BlindFirst, SpendingFreeDavePlus
from tests.references.released_ccd import ReleasedCCD

pytestmark = pytest.mark.golden

Case = dict[str, Any]
FOLDER = "trajectory_policies"


def load(name: str) -> Any:
    """One file of the folder."""
    return golden_json(f"{FOLDER}/{name}.json")


def decode(family: str, policy: Policy, prompt: list[int], cache: str = "none", **settings: Any) -> GenerationResult:
    """Decode without an early stop but the policy's."""
    config = GenerationConfig(**{"early_stop": False, **settings})
    return DiffusionSampler(golden_model(f"{FOLDER}/tiny_{family}"), policy, cache, config).generate(prompt)


def commits(result: GenerationResult) -> list[list[list[int]]]:
    """[cell, token] of each forward, in the order they were decided."""
    return [[list(c) for c in zip(step.cells, step.new, strict=True)] for step in result.trace[0].steps]


def in_a_row(forwards: list[list[list[int]]]) -> list[list[int]]:
    """All commits one after the other."""
    return [commit for forward in forwards for commit in forward]


def by_cell(forwards: list[list[list[int]]]) -> list[list[list[int]]]:
    """The commits of each forward sorted by cell, as most references record them."""
    return [sorted(forward) for forward in forwards]


# FreeDave


def freedave_runs() -> list[Any]:
    """Every (case, drafts) of both families; drafts None = the static decoding it must equal."""
    found = []
    for family in ("llada", "dream"):
        for number, case in enumerate(load(f"freedave_{family}")["cases"]):
            cache = "dual" if case["dual_cache"] else "prefix"
            name = f"{family}{number}-N{case['gen_length']}-L{case['block_length']}-{cache}"
            if case["static"]["undecoded"]:
                name += "-reference-leaves-masks"  # Dream with blocks of 2
            found.append(pytest.param(family, case, None, "auto", id=f"{name}-static"))
            for drafts in map(int, case["freedave"]):
                for branches in ("tree", "expand") if drafts == 4 else ("auto",):
                    found.append(pytest.param(family, case, drafts, branches, id=f"{name}-d{drafts}-{branches}"))
    return found


def blind(family: str, policy: Policy) -> Policy:
    """FreeDave's Dream loop takes each block's first cell from the opening forward, whatever it is."""
    return BlindFirst() | policy if family == "dream" else policy


@pytest.mark.parametrize(("family", "case", "drafts", "branches"), freedave_runs())
def test_freedave(family: str, case: Case, drafts: int | None, branches: str) -> None:
    policy = TopK(k=1) if drafts is None else FreeDave(drafts=drafts)
    cache, length, block = "dual" if case["dual_cache"] else "prefix", case["gen_length"], case["block_length"]
    settings = {"max_new_tokens": length, "block_length": block, "branches": branches}
    result = decode(family, blind(family, policy), case["prompt"], cache, **settings)
    static = case["static"]
    if static["undecoded"]:
        mask = golden_model(f"{FOLDER}/tiny_{family}").mask_id
        assert mask not in result.sequences[0] and result.nfe[0] <= length
        return
    golden = static if drafts is None else case["freedave"][str(drafts)]
    assert result.sequences[0] == golden["sequence"] == static["sequence"]
    assert result.nfe[0] == golden["nfe"] == len(golden["forwards"])
    # The reference commits a draft one forward later than its acceptance; the order is that of static decoding.
    order = in_a_row(static["commits"])
    assert in_a_row(commits(result)) == order
    for forward in golden["commits"]:
        assert sorted(order[: len(forward)]) == forward
        order = order[len(forward) :]

    committed, verified = 0, iter(golden.get("accepted") or [v["accepted"] for v in golden.get("verifications", [])])
    for step, (_, tokens) in zip(result.trace[0].steps, golden["forwards"], strict=True):
        if step.opening:
            assert step.rows == 1 and step.tokens == tokens
        else:
            window = block if cache == "dual" else length - step.start
            left = step.end - step.start - (committed - step.start)
            # The same rows but one: a draft that completes the block need not be predicted.
            rows, extra = divmod(tokens, window)
            assert extra == 0 and step.tokens == min(rows, left) * window
            assert step.rows == (min(rows, left) if branches == "expand" or (drafts is None) else 1)
            if drafts is not None:
                # The step on the last accepted draft comes without another forward.
                assert len(step.cells) == min(next(verified) + 1, left)
        committed += len(step.cells)
    assert committed == length


def extra_runs() -> list[Any]:
    """FreeDave++ against the threshold, and the left-to-right order."""
    return [
        pytest.param(family, case, id=f"{family}{number}-{case['type']}")
        for family in ("llada", "dream")
        for number, case in enumerate(load(f"freedave_{family}_extra")["cases"])
    ]


@pytest.mark.parametrize(("family", "case"), extra_runs())
def test_freedave_plus_and_left_to_right(family: str, case: Case) -> None:
    cache = "dual" if case["dual_cache"] else "prefix"
    settings = {"max_new_tokens": case["gen_length"], "block_length": case["block_length"]}
    if case["type"] == "threshold":
        threshold = Threshold(case["tau"])
        pairs = ((threshold, case["parallel"]), (SpendingFreeDavePlus(threshold), case["freedave_pp_d4"]))
    else:
        pairs = (
            (TopK(score="position"), case["static"]),
            (FreeDave(order="left_to_right"), case["freedave_d4"]),
        )
    outcomes = []
    for policy, golden in pairs:
        result = decode(family, blind(family, policy), case["prompt"], cache, **settings)
        assert result.sequences[0] == golden["sequence"]
        assert result.nfe[0] == golden["nfe"]
        if not isinstance(policy, FreeDave):
            assert by_cell(commits(result)) == by_cell(golden["commits"])
        outcomes.append(result)
    plain, fast = outcomes
    assert (plain.sequences == fast.sequences) == case["same"]
    if case["type"] == "l2r":
        assert in_a_row(commits(plain)) == in_a_row(commits(fast))
    else:  # without the forwards that the reference spends on blocks its first draft completed
        policy = blind(family, FreeDavePlus(Threshold(case["tau"])))
        thrifty = decode(family, policy, case["prompt"], cache, **settings)
        complete = [v for v in case["freedave_pp_d4"]["verifications"] if _complete(v, case["block_length"])]
        assert thrifty.sequences == fast.sequences
        assert thrifty.nfe[0] == fast.nfe[0] - len(complete)


def _complete(verification: Case, block: int) -> bool:
    """The reference verified a canvas without a mask."""
    return len(verification["row0_unmasked"]) == block


def nocache_runs() -> list[Any]:
    """Uncached runs, inside blocks and across them."""
    return [
        pytest.param(case, run, branches, id=f"{n}-d{run['draft_steps']}-cross_{run['cross_block']}-{branches}")
        for n, case in enumerate(load("freedave_nocache_llada")["cases"])
        for run in case["freedave"]
        for branches in ("expand", "tree")
    ]


@pytest.mark.parametrize(("case", "run", "branches"), nocache_runs())
def test_freedave_without_cache(case: Case, run: Case, branches: str) -> None:
    settings = {"max_new_tokens": case["gen_length"], "block_length": case["block_length"], "branches": branches}
    drafts, cross = run["draft_steps"], run["cross_block"]
    result = decode("llada", FreeDave(drafts=drafts, cross_block=cross), case["prompt"], **settings)
    assert result.sequences[0] == case["static"]["sequence"]
    assert in_a_row(commits(result)) == case["static"]["order"]
    assert result.nfe[0] == run["nfe"]
    recorded, committed, whole = 0, 0, len(case["prompt"]) + case["gen_length"]
    for number, step in enumerate(result.trace[0].steps):
        left = (case["gen_length"] if cross else step.end) - committed
        plain = number == 0 or (step.opening and not cross)
        # One row less than recorded where a draft would leave nothing to predict.
        rows = 1 if plain else min(drafts, left)
        recorded += 1 if plain else min(drafts, left + 1)
        assert step.tokens == rows * whole
        assert step.rows == (rows if branches == "expand" else 1)
        committed += len(step.cells)
    assert recorded == run["rows_forwarded"]


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=str(i)) for i, c in enumerate(load("freedave_verification_unit")["cases"])]
)
def test_verification_rule(case: Case) -> None:
    drafts, targets = torch.tensor([case["draft"]]), torch.tensor([case["target"]])
    mask = load("freedave_verification_unit")["mask"]
    for name, part in (("exact_match", None), ("subset", drafts == mask)):
        at = 0
        while (onward := int(furthest(drafts, targets, part=part)[0, at])) > at:
            at = onward
        assert at == case[name]


# CCD


def ccd_runs() -> list[Any]:
    """Runs of the released code; one that hit its re-masking bug is named so."""
    return [
        pytest.param(
            case,
            run,
            id=f"{n}-{'CCD-DS' if run['seek'] else 'CCD'}-{run['expand_ratio']:g}-T{run['steps']}"
            + ("-reference-remasks" if run.get("hits_remask_bug") else ""),
        )
        for n, case in enumerate(load("ccd_ref_dream")["cases"])
        for run in case["runs"]
    ]


@pytest.mark.parametrize(("case", "run"), ccd_runs())
def test_ccd_released_code(case: Case, run: Case) -> None:
    cells = case["gen_length"]
    score = {"entropy": "entropy", "maskgit_plus": "confidence", "topk_margin": "margin"}[run["alg"]]
    policy = ReleasedCCD(
        adaptive=run["seek"],
        budget=cells // run["steps"],
        expand_ratio=run["expand_ratio"],
        score=score,  # type: ignore[arg-type]
    )
    result = decode("dream", policy, case["prompt"], max_new_tokens=cells, block_length=None)
    mask = golden_model(f"{FOLDER}/tiny_dream").mask_id
    if run.get("hits_remask_bug"):
        assert mask not in result.sequences[0] and result.nfe[0] <= run["forwards"]
        return
    assert result.sequences[0] == run["sequence"]
    assert result.nfe[0] == run["forwards"]
    assert by_cell(commits(result)) == by_cell(run["commits"])


@pytest.mark.parametrize("case", [pytest.param(c, id=str(i)) for i, c in enumerate(load("ccd_ref_dream")["cases"])])
def test_ccd_baseline(case: Case) -> None:
    cells, golden = case["gen_length"], case["uniform_baseline"]
    policy = TopK(k=cells // len(golden["commits"]), score="entropy")
    result = decode("dream", policy, case["prompt"], max_new_tokens=cells, block_length=None)
    assert result.sequences[0] == golden["sequence"]
    assert by_cell(commits(result)) == by_cell(golden["commits"])


# SchED and Prophet


def exits(name: str) -> list[Any]:
    """Every run of a file, named by its number."""
    return [
        pytest.param(case, run, id=f"{n}-{m}")
        for n, case in enumerate(load(name)["cases"])
        for m, run in enumerate(case["runs"])
    ]


def same_numbers(seen: list[float], golden: list[float | None]) -> None:
    """Equal where the reference recorded something."""
    assert len(seen) == len(golden)
    for mine, theirs in zip(seen, golden, strict=True):
        if theirs is not None:
            assert mine == pytest.approx(theirs, abs=1e-4)


def listen(monkeypatch: pytest.MonkeyPatch, part: SchED | Prophet) -> list[tuple[float, float, float]]:
    """Of each forward: the mean margin that the rule sees, that of all masked cells, and the bar."""
    heard: list[tuple[float, float, float]] = []
    finish, bar = type(part).finish, type(part).bar

    def hear(self: Any, view: Any, prediction: Any, decision: Any, memory: Any) -> Any:
        total = view.budget if self.steps is None else torch.tensor([self.steps])
        means = [float(prediction.logit_margin[cells].mean()) for cells in (self.watched(view), view.masked)]
        heard.append((*means, float(bar(self, memory.taken + 1, total))))  # type: ignore[arg-type]
        return finish(self, view, prediction, decision, memory)

    monkeypatch.setattr(type(part), "finish", hear)
    return heard


@pytest.mark.parametrize(("case", "run"), exits("sched_ref_dream"))
def test_sched_and_its_prophet(case: Case, run: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    given = run["params"]
    common = {
        "steps": given["steps"],
        "max_change": given["max_change_ratio"],
        "region": "masked" if given.get("average_over_masked", True) else "all",
    }
    part: SchED | Prophet
    if "tau_mode" in given:
        part = SchED(
            high=given["tau_high"],
            low=given["tau_low"],
            schedule=given["tau_mode"],
            k=given.get("tau_k", 4.0),
            progress="released",
            **common,
        )
    else:
        thresholds = (given[f"{stage}_threshold"] for stage in ("early", "mid", "late"))
        part = Prophet(*thresholds, stages=(1 / 3, 2 / 3), **common)
    heard = listen(monkeypatch, part)
    policy = TopK(steps=given["steps"], schedule="time", score="entropy") | part
    result = decode("dream", policy, case["prompt"], max_new_tokens=case["gen_length"], block_length=None)
    assert result.sequences[0] == run["sequence"]
    assert result.nfe[0] == run["forwards"]
    assert by_cell(commits(result)) == by_cell(run["commits"])
    same_numbers([masked for _, masked, _ in heard], run["gbar"])
    if "tau" in run:
        same_numbers([bar for _, _, bar in heard], run["tau"])
    if "gbar" in run["stats"]:
        assert heard[-1][0] == pytest.approx(run["stats"]["gbar"], abs=1e-4)


@pytest.mark.parametrize(("case", "run"), exits("prophet_ref_llada"))
def test_prophet(case: Case, run: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    cells, block, steps = run["gen_length"], run["block_length"], run["steps"]
    thresholds = (run["thresholds"][stage] for stage in ("early", "mid", "late"))
    part = Prophet(*thresholds, answer_start=run["answer_start_offset"], steps=steps)
    heard = listen(monkeypatch, part)
    # Constraints are tokens given in the canvas.
    given = {int(cell): token for cell, token in (run["constraints"] or {}).items()}
    mask = golden_model(f"{FOLDER}/tiny_llada").mask_id
    prompt = case["prompt"] + [given.get(cell, mask) for cell in range(cells)]
    policy = TopK(steps=steps // (cells // block), spend=True) | part
    result = decode("llada", policy, prompt, max_new_tokens=0, infill=True, block_length=block)
    assert result.sequences[0] == run["sequence"]
    assert result.nfe[0] == run["forwards"] == run["exit_info"]["actual_steps"]
    assert by_cell(commits(result)) == by_cell(run["commits"])
    same_numbers([mean for mean, _, _ in heard], run["answer_gap"])

"""CCD and CCD-DS: the worked tables of both rules, memory, parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from samplers import CCD, CCDDS, PolicyError, Prediction, Setting, View, parse_policy, spell
from samplers.ccd import History
from samplers.distributions import Distributions, Mean
from tests.references.golden_data import golden_json
from tests.references.released_ccd import Buffer, ReleasedCCD
from tests.toys import EOS, MASK, VOCAB, commits, decode, in_order, scene, tiny

SETTING = Setting(mask_id=MASK, eos_ids=(EOS,), vocab_size=VOCAB, max_new_tokens=8)
DREAM = replace(SETTING, family="dream")


def examples(rule: str) -> list[Any]:
    """The worked examples of one rule that hold logits."""
    found = golden_json("trajectory_policies/worked_ccd.json")["examples"]
    return [pytest.param(e, id=e["name"].split()[0]) for e in found if e["rule"] == rule and "masked" in e]


def predicted(logits: list[list[float]], masked: list[int], cells: int) -> tuple[View, Prediction]:
    """A view of `cells` cells, of which `masked` are masks with these logits over the first token ids."""
    values = torch.full((cells, VOCAB), -torch.inf)
    values[: len(logits), : len(logits[0])] = torch.tensor(logits, dtype=torch.float32)
    probs = values[: len(logits)].softmax(-1)
    sure = [float(probs[i].max()) if i in masked else None for i in range(cells)]
    entropy = [float(torch.special.entr(probs[i]).sum()) if i in masked else 0.0 for i in range(cells)]
    tokens = [[int(probs[i].argmax()) if i in masked else 1 for i in range(cells)]]
    view, prediction = scene([sure], tokens=tokens, entropy=[entropy])
    logits = values[masked]
    return view, replace(prediction, logits=logits, logsumexp=logits.logsumexp(-1), cells=torch.tensor(masked))


def written(decision: Any) -> list[list[int]]:
    """[cell, token] in the order decided."""
    return [[cell, int(decision.values[0, cell])] for cell in in_order(decision)[0]]


@pytest.mark.golden
@pytest.mark.parametrize("example", examples("released"))
def test_released_rule(example: dict[str, Any]) -> None:
    policy = ReleasedCCD(adaptive=example["seek"], budget=example["b"], score="entropy").bind(SETTING)
    view, prediction = predicted(example["cur_logits"], example["masked"], cells=20)
    view = replace(view, block_step=torch.tensor([6]))
    arguments = torch.tensor(example["prev_logits"]).argmax(-1).tolist()
    held = example["prev_buffer"] + [-1] * (policy.longest - len(example["prev_buffer"]))
    tokens = [arguments[cell] if cell >= 0 else -1 for cell in held]
    memory = Buffer(torch.tensor([held]), torch.tensor([tokens]), torch.tensor([example["V"] - 1]))
    decision, after = policy.decide(view, prediction, memory)
    assert written(decision) == example["commit"]
    buffer = [cell for cell in after.cells[0].tolist() if cell >= 0]
    assert buffer == example["next_buffer"]
    assert after.tokens[0, : len(buffer)].tolist() == [example["argmax_cur"][cell] for cell in buffer]


@pytest.mark.golden
def test_released_buffer_sizes() -> None:
    (example,) = [e for e in golden_json("trajectory_policies/worked_ccd.json")["examples"] if "masks_left" in e]
    policy = ReleasedCCD(budget=example["b"], score="entropy").bind(SETTING)
    assert policy.longest == example["V_max"]
    memory, sizes = None, []
    for step, left in enumerate(example["masks_left"]):
        logits = [[float(i), 0.0] for i in range(20)]
        view, prediction = predicted(logits, list(range(left)), cells=20)
        view = replace(view, block_step=torch.tensor([step]))
        memory = policy.begin(view) if memory is None else memory
        _, memory = policy.decide(view, prediction, memory)
        sizes.append(int(memory.size))
    assert sizes == example["V"]


@pytest.mark.golden
@pytest.mark.parametrize("example", examples("paper-marginal"))
def test_paper_rule(example: dict[str, Any]) -> None:
    outcomes = {
        "ccd_commit": CCD(),
        "ccdds_commit_stable": CCDDS(),
        "ccdds_commit_eps": CCDDS(eps=example["eps"]),
    }
    for name, given in outcomes.items():
        policy = replace(given, history=example["d"], candidates=example["V"], score="entropy").bind(SETTING)
        memory: Any = None
        for step, logits in enumerate(example["logits_per_step"]):
            view, prediction = predicted(logits, example["masked"], cells=len(logits))
            view = replace(view, block_step=torch.tensor([step]))
            memory = policy.begin(view) if memory is None else memory
            if step < example["d"] - 1:  # too little history: the best cell
                decision, memory = policy.decide(view, prediction, memory)
                best = example["topV_per_step"][step][0]
                assert written(decision) == [[best, int(torch.tensor(logits[best]).argmax())]]
                continue
            decision, memory = policy.decide(view, prediction, memory)
        assert written(decision) == example[name], name


@pytest.mark.golden
@pytest.mark.parametrize("example", examples("paper-marginal"))
def test_entropy_of_the_mean(example: dict[str, Any]) -> None:
    held = []
    for logits in example["logits_per_step"]:
        _, prediction = predicted(logits, example["masked"], cells=len(logits))
        cells, real = torch.tensor([example["masked"]]), torch.ones(1, len(example["masked"]), dtype=torch.bool)
        held.append(Distributions(prediction, cells, real))
    recent = held[-example["d"] :]
    where = torch.arange(len(example["masked"])).expand(1, len(recent) - 1, -1)
    mean = Mean(recent[-1], tuple(h.probs for h in recent[:-1]), where, torch.zeros_like(cells), MASK)
    mean.measure(real)
    for cell, entropy in example["entropy_p_bar"].items():
        assert float(mean.entropy[0, example["masked"].index(int(cell))]) == pytest.approx(entropy, abs=1e-5)


@pytest.mark.parametrize("suppressed", [False, True])
def test_distributions(suppressed: bool) -> None:
    """Softmax, entropy and likeliest token, with the mask on top and with suppressed tokens."""
    logits = 5 * torch.randn(6, VOCAB, generator=torch.Generator().manual_seed(0))
    logits[1, MASK] = 40.0
    if suppressed:
        logits[:, [3, 7]] = -torch.inf
    view, prediction = scene([[0.5] * 6])
    prediction = replace(prediction, logits=logits, logsumexp=logits.logsumexp(-1), cells=torch.arange(6))
    cells, real = torch.tensor([[4, 1, 0, 5]]), torch.tensor([[True, True, True, False]])
    said = Distributions(prediction, cells, real)
    plain = logits[cells].double().softmax(-1) * real[..., None]
    torch.testing.assert_close(said.probs.double(), plain, rtol=1e-5, atol=1e-9)
    below = torch.special.entr(plain).sum(-1) - said.least
    assert bool((below >= -1e-6).all() & (below < 1e-3).all())
    best = plain.index_fill(-1, torch.tensor([MASK]), -1.0).argmax(-1)
    for guess in (best, torch.zeros_like(best)):
        assert said.likeliest(guess, MASK)[real].tolist() == best[real].tolist()


def by_the_paper(policy: CCD, memory: dict[str, Any], logits: torch.Tensor, masked: list[int]) -> dict[int, int]:
    """The rule on one row, step by step as it is written, in float64: cell -> token."""
    assert policy.history is not None
    p = {cell: logits[cell].double().softmax(-1) for cell in masked}
    ranked = sorted(masked, key=lambda cell: (-float(p[cell][:MASK].max()), cell))
    best = ranked[: policy.candidates]
    seen = [*memory.setdefault("seen", []), {cell: p[cell] for cell in best}][-policy.history :]
    memory["seen"] = seen

    def likeliest(x: torch.Tensor) -> int:
        return int(x[:MASK].argmax())

    candidates = [cell for cell in best if len(seen) == policy.history and all(cell in s for s in seen)]
    mean = {cell: torch.stack([s[cell] for s in seen]).mean(0) for cell in candidates}
    entropy = {cell: float(torch.special.entr(mean[cell]).sum()) for cell in candidates}
    if not candidates:
        return {cell: likeliest(p[cell]) for cell in ranked[: policy.budget]}
    stable = [cell for cell in candidates if len({likeliest(s[cell]) for s in seen}) == 1]
    if policy.eps is not None:
        stable = [cell for cell in candidates if entropy[cell] < policy.eps]
    chosen = stable if policy.adaptive and stable else sorted(candidates, key=entropy.__getitem__)[: policy.budget]
    return {cell: likeliest(mean[cell]) for cell in chosen}


@pytest.mark.parametrize("budget", [1, 2])
@pytest.mark.parametrize("history", [1, 2, 3])
@pytest.mark.parametrize("variant", [{}, {"adaptive": True}, {"adaptive": True, "eps": 1.2}], ids=["ccd", "ds", "eps"])
def test_the_rule_as_the_paper_has_it(variant: dict[str, Any], history: int, budget: int) -> None:
    """Entropies are only worked out where bounds leave the choice open; it is the choice of working out all."""
    policy = CCD(history=history, candidates=4, budget=budget, **variant).bind(SETTING)
    generator = torch.Generator().manual_seed(3)
    rows, cells, rectified = 12, 9, 0
    drift = 2.5 * torch.randn(rows, cells, VOCAB, generator=generator)
    tokens = torch.full((rows, cells), MASK)
    memory, plain = None, [dict[str, Any]() for _ in range(rows)]
    for step in range(5):
        drift = drift + 0.7 * torch.randn(drift.shape, generator=generator)
        masked = tokens == MASK
        if not bool(masked.any(-1).all()):
            break
        probs = drift.softmax(-1)
        sure = [[float(probs[r, c, :MASK].max()) if masked[r, c] else None for c in range(cells)] for r in range(rows)]
        view, prediction = scene(sure, tokens=torch.where(masked, probs[..., :MASK].argmax(-1), tokens).tolist())
        view = replace(view, block_step=torch.full((rows,), step))
        logits = drift[masked]
        where = masked.flatten().nonzero()[:, 0]
        prediction = replace(prediction, logits=logits, logsumexp=logits.logsumexp(-1), cells=where)
        memory = policy.begin(view) if memory is None else memory
        decision, memory = policy.decide(view, prediction, memory)
        for row in range(rows):
            here = masked[row].nonzero()[:, 0].tolist()
            expected = by_the_paper(policy, plain[row], drift[row], here)
            chosen = decision.write[row].nonzero()[:, 0].tolist()
            assert {cell: int(decision.values[row, cell]) for cell in chosen} == expected, (step, row)
            rectified += any(int(prediction.token[row, cell]) != token for cell, token in expected.items())
        tokens = torch.where(decision.write, decision.values, tokens)
    assert step >= 2 and (rectified > 0) == (history > 1)


def test_a_rectified_token_is_that_of_the_mean() -> None:
    """Cell 0 now prefers token 1 by a hair; over both forwards it is token 0."""
    first, now = [[4.0, 0.0, 0.0]], [[0.0, 0.2, 0.0]]
    for choice, token in (("marginal", 0), ("current", 1)):
        policy = CCD(history=2, candidates=1, token=choice).bind(SETTING)  # type: ignore[arg-type]
        view, prediction = predicted(first, [0], cells=1)
        _, memory = policy.decide(view, prediction, policy.begin(view))
        view, prediction = predicted(now, [0], cells=1)
        decision, _ = policy.decide(replace(view, block_step=torch.tensor([1])), prediction, memory)
        assert written(decision) == [[0, token]]


def test_memory_is_bounded_and_ends_with_the_block() -> None:
    view, prediction = predicted([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0]], [0, 1, 2], cells=3)
    policy = CCD(history=3, candidates=2).bind(SETTING)
    memory = policy.begin(view)
    assert isinstance(memory, History) and [p.shape for p in memory.probs] == [(1, 2, VOCAB)] * 2
    for step in range(4):
        _, memory = policy.decide(replace(view, block_step=torch.tensor([step])), prediction, memory)
        assert [p.shape for p in memory.probs] == [(1, 2, VOCAB)] * 2 and int(memory.steps) == min(step + 1, 2)
    # A new block knows nothing of the last one: cell 2 is the best now, and no candidate.
    view, prediction = predicted([[0.0, 0.0], [0.1, 0.0], [1.0, 0.0]], [0, 1, 2], cells=3)
    decision, memory = policy.decide(view, prediction, memory)
    assert written(decision) == [[2, 0]] and int(memory.steps) == 1


def test_no_candidate_falls_back_to_the_best_cells() -> None:
    policy = CCD(history=2, candidates=1, budget=2).bind(SETTING)
    view, prediction = predicted([[3.0, 0.0], [1.0, 0.0], [0.5, 0.0]], [0, 1, 2], cells=3)
    _, memory = policy.decide(view, prediction, policy.begin(view))
    view, prediction = predicted([[0.1, 0.0], [1.0, 0.0], [2.0, 0.0]], [0, 1, 2], cells=3)
    decision, _ = policy.decide(replace(view, block_step=torch.tensor([1])), prediction, memory)
    assert sorted(written(decision)) == [[1, 0], [2, 0]]


def test_defaults_depend_on_the_family() -> None:
    llada, dream = CCD().bind(SETTING), CCD().bind(DREAM)
    assert (llada.history, llada.score, llada.candidates) == (2, "confidence", 4)
    assert (dream.history, dream.score, dream.candidates) == (3, "entropy", 4)
    assert llada.token == "marginal" and CCD().bind(replace(SETTING, temperature=0.7)).token == "current"
    assert llada.needs == {"logits"} and dream.needs == {"logits", "entropy"}


def test_ccd_ds_needs_fewer_forwards() -> None:
    model = tiny("llada")
    plain = decode(model, "ccd", [1, 2, 3], max_new_tokens=16)
    fast = decode(model, "ccd-ds", [1, 2, 3], max_new_tokens=16)
    assert plain.nfe[0] == 16 and all(len(cells) == 1 for cells in commits(plain))
    assert fast.nfe[0] < 16


def test_spelling() -> None:
    assert spell(parse_policy("ccd-ds:history=3,eps=0.5")) == "ccdds:history=3,eps=0.5"
    assert parse_policy("ccd:adaptive=true,budget=2") == CCD(adaptive=True, budget=2)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"budget": 0}, "budget is 0; give a whole number from 1 up"),
        ({"history": 0}, "history is 0"),
        ({"candidates": 0}, "candidates is 0"),
        ({"score": "random"}, "score is 'random'; choose confidence, entropy, margin or None"),
        ({"eps": 0.5}, "use adaptive=True with it"),
        ({"eps": -1.0, "adaptive": True}, "eps is -1.0"),
    ],
)
def test_wrong_parameters(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError, match=said.replace("(", r"\(")):
        CCD(**fields)

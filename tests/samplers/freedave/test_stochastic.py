"""FreeDave at a temperature: its outcomes have the distribution of drawing one cell per forward, chi-square tested."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from dllm_decode import CallableModel, GenerationResult
from dllm_decode.lab.oracles import indep, replace, shuffle
from samplers import FreeDave, View
from samplers.freedave import stochastic
from tests.references.quirks import ExtraForward
from tests.toys import FAMILIES, MASK, decode, tiny

Law = dict[tuple[int, ...], float]
ROWS, SYMBOLS, CELLS = 1200, 3, 4


def inconsistent(seed: int = 5) -> CallableModel:
    """A random model whose conditionals fit no joint distribution: every order of cells has a law of its own."""
    generator = torch.Generator().manual_seed(seed)
    table = 1.5 * torch.randn(CELLS, (SYMBOLS + 1) ** CELLS, SYMBOLS + 1, generator=generator)

    def logits(ids: Tensor) -> Tensor:
        canvas = ids[:, -CELLS:]
        code = (canvas * (SYMBOLS + 1) ** torch.arange(CELLS)).sum(-1)
        out = torch.zeros(*ids.shape, SYMBOLS + 1)
        out[:, -CELLS:] = table[:, code].transpose(0, 1)
        return out

    return CallableModel(logits, mask_id=SYMBOLS, vocab_size=SYMBOLS + 1)


def exact(model: CallableModel, order: str, temperature: float, block: int | None) -> Law:
    """The distribution of drawing one cell per forward in this order, by enumeration."""
    law: Law = Counter()

    def go(canvas: list[int], chance: float) -> None:
        if SYMBOLS not in canvas:
            law[tuple(canvas)] += chance
            return
        q = model.fn(torch.tensor([[0, *canvas]]))[0, 1:] / temperature
        q[:, SYMBOLS] = -torch.inf
        q = q.softmax(-1)
        first = canvas.index(SYMBOLS)
        end = CELLS if block is None else (first // block + 1) * block
        masks = [i for i in range(first, min(end, CELLS)) if canvas[i] == SYMBOLS]
        cell = first if order == "left_to_right" else max(masks, key=lambda i: (float(q[i].max()), -i))
        for token in range(SYMBOLS):
            go([*canvas[:cell], token, *canvas[cell + 1 :]], chance * float(q[cell, token]))

    go([SYMBOLS] * CELLS, 1.0)
    assert sum(law.values()) == pytest.approx(1.0, abs=1e-5)
    return law


def sample(model: Any, policy: FreeDave, cells: int, rows: int = ROWS, **settings: Any) -> GenerationResult:
    """Many rows with the same prompt; each draws from its own source."""
    return decode(model, policy, [[0]] * rows, max_new_tokens=cells, **settings)


def p_value(result: GenerationResult, law: Law) -> float:
    """Of Pearson's chi-square test; outcomes expected less than 5 times count together."""
    rows, seen = len(result.sequences), Counter(map(tuple, result.sequences))
    if not set(seen) <= set(law):  # something impossible has happened
        return 0.0
    common = [outcome for outcome, chance in law.items() if chance * rows >= 5]
    observed = [seen[outcome] for outcome in common]
    expected = [law[outcome] * rows for outcome in common]
    rest = rows - sum(expected)
    if rest >= 1:
        observed.append(rows - sum(observed))
        expected.append(rest)
    statistic = sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    return float(chi2.sf(statistic, len(expected) - 1))


@pytest.mark.parametrize(
    ("order", "drafts", "cross_block", "block", "temperature"),
    [
        ("confidence", 1, False, None, 1.0),
        ("confidence", 4, False, None, 1.0),
        ("confidence", 4, False, None, 0.6),
        ("confidence", 3, False, 3, 1.0),
        ("confidence", 4, True, 2, 1.0),
        ("left_to_right", 4, False, None, 1.0),
        ("left_to_right", 2, True, 1, 0.6),
    ],
)
def test_law_of_any_model(order: Any, drafts: int, cross_block: bool, block: int | None, temperature: float) -> None:
    model = inconsistent()
    policy = FreeDave(drafts=drafts, order=order, cross_block=cross_block)
    result = sample(model, policy, CELLS, block_length=block, temperature=temperature, seed=1)
    assert p_value(result, exact(model, order, temperature, block)) > 0.01
    assert (sum(result.nfe) < CELLS * ROWS) == (drafts > 1)


@pytest.mark.parametrize("order", ["confidence", "left_to_right"])
@pytest.mark.parametrize("oracle", [shuffle(4), replace(4), indep(3, 3)], ids=["shuffle4", "replace4", "indep33"])
def test_law_of_the_oracles(oracle: Any, order: Any) -> None:
    """Drawn cell by cell from exact conditionals, every valid sequence is equally likely in any order."""
    result = sample(oracle, FreeDave(drafts=4, order=order), oracle.length, block_length=None, temperature=1.0, seed=2)
    valid = [tuple(row) for row in oracle.sequences.tolist()]
    assert p_value(result, dict.fromkeys(valid, 1 / len(valid))) > 0.01
    assert sum(result.nfe) < oracle.length * ROWS


def accept_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong rule: no draft is ever refused (unless it is impossible)."""
    monkeypatch.setattr(View, "uniform", lambda view: torch.zeros(view.tokens.shape))


def redraw_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong rule: behind a refusal the likeliest token left is taken, not drawn."""
    monkeypatch.setattr(stochastic, "_draw", lambda weights, luck: weights.argmax(-1))


def accept_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong rule: drafts are accepted with half the chance they deserve."""
    uniform = View.uniform
    monkeypatch.setattr(View, "uniform", lambda view: 2 * uniform(view))


@pytest.mark.parametrize("order", ["confidence", "left_to_right"])
@pytest.mark.parametrize("wrong", [accept_all, redraw_plainly, accept_half], ids=lambda wrong: wrong.__name__)
def test_a_wrong_rule_fails(wrong: Any, order: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chi-square test has the power to tell, with half the samples."""
    model = inconsistent()
    law = exact(model, order, 1.0, None)
    wrong(monkeypatch)
    result = sample(model, FreeDave(drafts=4, order=order), CELLS, ROWS // 2, block_length=None, temperature=1.0)
    assert p_value(result, law) < 1e-4


@pytest.mark.parametrize(
    ("oracle", "wrong"), [(shuffle(4), redraw_plainly), (replace(4), accept_all)], ids=["shuffle4", "replace4"]
)
def test_a_wrong_rule_fails_on_the_oracles(oracle: Any, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong(monkeypatch)
    policy = FreeDave(drafts=4, order="left_to_right")
    result = sample(oracle, policy, oracle.length, ROWS // 2, block_length=None, temperature=1.0)
    valid = [tuple(row) for row in oracle.sequences.tolist()]
    assert p_value(result, dict.fromkeys(valid, 1 / len(valid))) < 1e-6


def test_filters_apply_to_the_target_too() -> None:
    """With top-k the target is the filtered distribution: tokens outside never appear, ratios inside are kept."""
    model = inconsistent(6)
    policy = FreeDave(drafts=4, order="left_to_right")
    result = sample(model, policy, CELLS, rows=50, block_length=None, temperature=1.0, top_k=1)
    greedy = decode(model, "topk:score=position", [0], max_new_tokens=CELLS, block_length=None)
    assert {tuple(row) for row in result.sequences} == {tuple(greedy.sequences[0])}


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_draw_for_themselves(family: str, cache: str) -> None:
    """The same rows whatever the layout of the branches, and whoever else is in the batch."""
    model, prompts = tiny(family, 2), [[1, 2, 3], [4], [5, 6]]
    settings: dict[str, Any] = {"max_new_tokens": 10, "block_length": 5, "temperature": 0.8, "seed": 3}
    policy = FreeDave(drafts=3)
    tree = decode(model, policy, prompts, cache, branches="tree", **settings)
    expand = decode(model, policy, prompts, cache, branches="expand", **settings)
    alone = decode(model, policy, prompts[:1], cache, **settings)
    assert tree.sequences == expand.sequences and tree.nfe == expand.nfe
    assert alone.sequences[0] == tree.sequences[0] and alone.nfe[0] == tree.nfe[0]
    assert decode(model, policy, prompts, cache, **{**settings, "seed": 4}).sequences != tree.sequences


def test_an_empty_forward() -> None:
    """A held block has nothing to predict."""
    result = decode(
        tiny("llada"), FreeDave(drafts=3) | ExtraForward(), [1], max_new_tokens=2, block_length=1, temperature=1.0
    )
    assert result.nfe == [4]


def test_more_drafts_than_cells() -> None:
    for cells in (1, 2, 4):
        result = decode(
            tiny("llada"), FreeDave(drafts=8), [[1, 2], [3]], max_new_tokens=cells, block_length=3, temperature=0.7
        )
        assert all(len(row) == cells and MASK not in row for row in result.sequences)

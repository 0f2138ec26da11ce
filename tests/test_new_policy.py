"""A newly registered policy needs its file, its line and its test: all else that knows policies takes it as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import find, settings

from dllm_decode.cli.policies import describe
from samplers import REGISTRY, Decision, Policy, Prediction, View, commit, divergence, parse_policy
from samplers.contract.memory import Memory
from samplers.registry import Entry
from scripts import bench_policies, check_batches
from tests import policies as random_policies
from tests.dllm_decode.engine import test_compositions as compositions
from tests.dllm_decode.harness import test_arguments
from tests.samplers import test_registry
from tests.samplers.contract import test_fields


@dataclass(frozen=True)
class Toy(Policy):
    """Commit what has stopped moving; the distance has no default."""

    drift: float
    recalls: int = 1
    needs = frozenset({"logits"})

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:
        still = prediction.open & bool(prediction.before)
        for earlier in prediction.before[:1]:
            still &= divergence(prediction, earlier, still, self.drift) <= self.drift
        return commit(still, prediction), memory


@dataclass(frozen=True)
class ToyLater(Policy):
    """Trust a cell the less the further right it is."""

    share: float = 0.8

    def rescore(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Prediction, Memory]:
        return replace(prediction, confidence=prediction.confidence * self.share**view.index), memory


TOYS = {"toy": Toy, "toylater": ToyLater}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both are registered, as by their line; few others are, so that this stays quick."""
    for name in set(REGISTRY) - {"topk", "threshold", "sched", "eosstop", "freedave", "wino"}:
        monkeypatch.delitem(REGISTRY, name)
    monkeypatch.setitem(REGISTRY, "toy", Entry(f"{__name__}:Toy", "a test", "drift=2.5"))
    monkeypatch.setitem(REGISTRY, "toylater", Entry(f"{__name__}:ToyLater", "a test"))
    monkeypatch.setattr(compositions, "DECIDERS", compositions.DECIDERS & set(REGISTRY) | {"toy"})
    random_policies.usable.cache_clear()
    yield
    random_policies.usable.cache_clear()


def test_compositions_take_it() -> None:
    compositions.test_the_arguments_make_the_parts_act()
    pairs = [names for _, names in compositions.all_of(2) if set(TOYS) & set(names) and compositions.sensible(names)]
    assert ("toy", "toylater") in pairs and ("sched", "toy") in pairs
    for names in pairs:
        for cache in ("none", "dual"):
            for number in range(2):
                model = compositions.fitting(names, compositions.tiny("llada", 1))
                compositions.check(model, compositions.composed(names, number, cache), number, cache)


@pytest.mark.parametrize("name", TOYS)
def test_property_tests_draw_it(name: str) -> None:
    quick = settings(max_examples=2000, database=None, deadline=None)
    text = find(random_policies.policies(), lambda text: name in text.replace(":", "+").split("+"), settings=quick)
    assert any(isinstance(part, TOYS[name]) for part in getattr(parse_policy(text), "parts", [parse_policy(text)]))


@pytest.mark.parametrize("name", TOYS)
def test_fields_papers_and_model_arguments_are_checked(name: str) -> None:
    test_fields.test_a_bad_value_is_refused_in_one_sentence(name)
    test_registry.test_every_entry_loads_and_says_where_it_comes_from()
    test_arguments.test_no_policy_parameter_is_hidden_by_a_model_argument()
    assert describe(name)["paper"] == "a test"


@pytest.mark.parametrize("name", TOYS)
def test_the_scripts_run_it(name: str) -> None:
    size = bench_policies.Size(2, 8, 4, 512)
    (policy,) = bench_policies.policies(name, size)
    row = bench_policies.measure(name, policy, size, steps=1, repeats=1)
    assert row.steps and row.bar == {"toy": bench_policies.RECALL_BAR_MS, "toylater": bench_policies.BAR_MS}[name]
    (text,) = [text for text in check_batches.policies() if name in text.replace(":", "+").split("+")]
    case = check_batches.Case("llada", 0, text, "dual", ((1, 2), (3,)), {"max_new_tokens": 6, "block_length": 3})
    assert all(check_batches.MASK not in tokens for tokens in case.sampler([0, 1]).generate([[1, 2], [3]]).sequences)

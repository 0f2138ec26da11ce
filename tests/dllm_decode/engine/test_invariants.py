"""The invariants of design.md over random policies, ragged prompts, blocks, caches and both families."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import assume, event, example, given, settings
from hypothesis import strategies as st

from dllm_decode import CallableModel, DiffusionSampler, GenerationConfig, GenerationResult
from dllm_decode.errors import DllmError
from samplers import PolicyError
from tests.dllm_decode.engine.invariants import check_run, same
from tests.policies import parts, policies
from tests.toys import EOS, FAMILIES, VOCAB, commits, decode, tiny


@dataclass(frozen=True)
class Case:
    """One generation; prints as the call that repeats it."""

    family: str
    model_seed: int
    policy: str
    cache: str
    prompts: tuple[tuple[int, ...], ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def sampler(self) -> DiffusionSampler:
        """The sampler, or a rejected example if the parts clash."""
        try:
            config = GenerationConfig(**self.settings)
            return DiffusionSampler(tiny(self.family, self.model_seed), self.policy, self.cache, config)
        except (PolicyError, DllmError):
            assume(False)
            raise

    def run(self, rows: list[int] | None = None) -> GenerationResult:
        """Decode all prompts, or some of them with the random source that they have among all."""
        sampler = self.sampler()
        rows = list(range(len(self.prompts))) if rows is None else rows
        return sampler.generate([list(self.prompts[i]) for i in rows], places=rows)

    @property
    def shift(self) -> int:
        """0 for LLaDA, 1 for Dream."""
        return tiny(self.family, self.model_seed).shift


@st.composite
def cases(draw: st.DrawFn, prompts: int = 1, name: str | None = None) -> Case:
    """A random generation of at least ``prompts`` rows, under the policy ``name`` or any composition."""
    family = draw(st.sampled_from(FAMILIES))
    cache = draw(st.sampled_from(["none", "prefix", "dual"]))
    temperature = draw(st.sampled_from([0.0, 0.0, 0.8]))
    policy = draw(parts(name) if name else policies(cache, FAMILIES.index(family), temperature))
    infill = draw(st.sampled_from([False, False, False, True]))
    token = st.integers(0, VOCAB - 1) if infill else st.integers(0, EOS)
    prompt = st.lists(token, min_size=1, max_size=7).map(tuple)
    ragged = draw(st.lists(prompt, min_size=prompts, max_size=3))
    settings = {
        "max_new_tokens": draw(st.integers(1, 12)),
        "block_length": draw(st.sampled_from([None, 1, 2, 3, 4, 5, 8])),
        "temperature": temperature,
        "seed": draw(st.integers(0, 3)),
        "early_stop": draw(st.booleans()),
        "infill": infill,
        "guidance": draw(st.sampled_from([0.0, 0.0, 0.0, 0.7])),
        "branches": draw(st.sampled_from(["auto", "expand", "tree"])),
        "top_p": draw(st.sampled_from([None, None, 0.9])),
        "top_k": draw(st.sampled_from([None, None, 1, 5])),
        "suppress_tokens": draw(st.sampled_from([(), (), (EOS,)])),
        "refresh": draw(st.sampled_from([1, 1, 1, 2, "window"])),
        "refresh_window": draw(st.sampled_from([0, 2])),
    }
    return Case(family, draw(st.integers(0, 2)), policy, cache, tuple(ragged), settings)


@settings(max_examples=3 * settings().max_examples)
@given(cases())
def test_every_run_keeps_the_invariants(case: Case) -> None:
    config = GenerationConfig(**case.settings)
    bound = case.sampler()._bound(config)
    event(f"cache {case.cache}")
    for part in bound.parts:
        event(type(part).__name__)
    check_run(case.run(), bound, case.prompts, config, case.cache, case.shift)


@settings(max_examples=2 * settings().max_examples)
@given(cases(prompts=2))
def test_rows_are_independent(case: Case) -> None:
    """4. A batch gives each row what it gets alone: tokens, forwards, costs and trace, also when sampling."""
    together = case.run()
    for row in range(len(case.prompts)):
        alone = case.run([row])
        assert alone.sequences[0] == together.sequences[row]
        assert alone.nfe[0] == together.nfe[row]
        assert alone.full_forwards[0] == together.full_forwards[row]
        for mine, theirs in itertools.zip_longest(alone.trace[0].steps, together.trace[row].steps):
            assert same(mine, theirs), (row, mine, theirs)


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_does_not_depend_on_its_companions(family: str, cache: str) -> None:
    """4, for sampling: row 1's draws are its own whoever is row 0."""
    model = tiny(family)
    setting = {"max_new_tokens": 9, "block_length": 4, "temperature": 1.0, "seed": 5}
    for policy in ("topk:k=2,score=random", "threshold:threshold=0.5"):
        first = decode(model, policy, [[1, 2], [3, 4, 5]], cache, **setting)
        other = decode(model, policy, [[7, 8, 9, 1, 2], [3, 4, 5]], cache, **setting)
        assert first.sequences[1] == other.sequences[1]
        assert commits(first, 1) == commits(other, 1)
        assert decode(model, policy, [[3, 4, 5]], cache, **{**setting, "seed": 6}).sequences[0] != first.sequences[1]


@pytest.mark.parametrize("shift", [0, 1])
def test_ties_go_to_the_lower_position_and_the_lower_token(shift: int) -> None:
    """3. A model that knows nothing: cells in order, token 0 everywhere, whatever the rule."""
    model = CallableModel(lambda ids: torch.zeros(*ids.shape, 6), mask_id=5, vocab_size=6, shift=shift)
    for policy in ("topk:k=1", "topk:k=3", "topk:k=2,score=margin", "topk:k=2,score=entropy", "threshold", "factor"):
        result = decode(model, policy, [[1, 2]], max_new_tokens=7, block_length=4)
        assert result.sequences == [[0] * 7]
        assert result.trace[0].order() == list(range(7))


@settings(max_examples=settings().max_examples - 5)
@given(cases())
def test_fp32_confidences_agree_with_the_reference_precision(case: Case) -> None:
    """8. The same decoding, and confidences within 1e-5 of a float64 softmax."""
    assume(case.settings["temperature"] == 0)
    exact = dataclasses.replace(case, settings={**case.settings, "precision": "reference"})
    ours, theirs = case.run(), exact.run()
    assert ours.sequences == theirs.sequences and ours.nfe == theirs.nfe
    for mine, reference in zip(ours.trace, theirs.trace, strict=True):
        for a, b in zip(mine.steps, reference.steps, strict=True):
            assert a.cells == b.cells
            torch.testing.assert_close(torch.tensor(a.confidence), torch.tensor(b.confidence), atol=1e-5, rtol=0)


@settings(max_examples=25)
@given(cases(name="freedave"))
def test_branches_as_rows_and_as_a_tree_agree(case: Case) -> None:
    """Drafts as extra rows and as one row with hidden branches are the same forward."""
    runs = [
        dataclasses.replace(case, settings={**case.settings, "branches": kind}).run() for kind in ("expand", "tree")
    ]
    assert runs[0].sequences == runs[1].sequences
    assert [commits(runs[0], i) for i in range(len(case.prompts))] == [
        commits(runs[1], i) for i in range(len(case.prompts))
    ]
    assert runs[0].tokens_forwarded == runs[1].tokens_forwarded


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=15)
@given(data=st.data())
@example(data=None)
def test_cache_with_unchanged_ids_is_the_full_forward(family: str, data: Any) -> None:
    """With one cell per block every forward is an opening one: all caches decode alike, to 1e-4."""
    length = 6 if data is None else data.draw(st.integers(1, 10))
    seed = 0 if data is None else data.draw(st.integers(0, 2))
    results = [
        decode(tiny(family, seed), "threshold", [[1, 2, 3], [4]], cache, max_new_tokens=length, block_length=1)
        for cache in ("none", "prefix", "dual")
    ]
    for other in results[1:]:
        assert other.sequences == results[0].sequences
        for a, b in zip(results[0].trace, other.trace, strict=True):
            assert all(
                same(x, dataclasses.replace(y, opening=x.opening)) for x, y in zip(a.steps, b.steps, strict=True)
            )

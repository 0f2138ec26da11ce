"""Test-only policies of every kind through the unmodified loop: history, branches, revokes, early stop, own blocks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_decode import CallableModel, DiffusionSampler, DllmError, NativeModel
from samplers import Decision, Policy, PolicyError, Prediction, Query, Scope, Setting, TopK, View, best, commit
from samplers.contract.memory import Memory
from tests.toys import FAMILIES, MASK, VOCAB, commits, decode, tiny

CACHES = ("none", "prefix", "dual")
PROMPTS = [[1, 2, 3, 4, 5], [6], [7, 8, 9]]


# --- history -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Seen:
    """What the last forward proposed, and for how many forwards in a row it has been the same."""

    token: Tensor
    times: Tensor


@dataclass(frozen=True)
class Patient(Policy):
    """Commit a cell once its proposal has been the same for ``times`` forwards; memory in generation coordinates."""

    times: int = 2
    scope = Scope.REST

    def begin(self, view: View) -> Seen:
        return Seen(torch.full_like(view.tokens, -1), torch.zeros_like(view.tokens))

    def decide(self, view: View, prediction: Prediction, memory: Seen) -> tuple[Decision, Memory]:
        again = prediction.predicted & (prediction.token == memory.token)
        times = torch.where(again, memory.times + 1, prediction.predicted.long())
        token = torch.where(prediction.predicted, prediction.token, memory.token)
        return commit(times >= self.times, prediction), Seen(token, times)


def patient_by_hand(prompt: list[int], length: int, block: int, times: int, family: str) -> tuple[list[int], int]:
    """The same rule written out over one plain canvas, without the engine."""
    model, row, forwards = tiny(family).module, prompt + [MASK] * length, 0
    last: dict[int, int] = {}
    run: dict[int, int] = {}
    for start in range(0, length, block):
        cells = range(len(prompt) + start, min(len(prompt) + start + block, len(row)))
        while any(row[i] == MASK for i in cells):
            with torch.no_grad():
                logits = model(torch.tensor([row])).logits[0].float()
            if family == "dream":
                logits = torch.cat([logits[:1], logits[:-1]])
            forwards += 1
            sure = logits.softmax(-1)
            logits[:, MASK] = -torch.inf
            for i in range(len(prompt), len(row)):
                if row[i] == MASK:
                    token = int(logits[i].argmax())
                    run[i] = run.get(i, 0) + 1 if last.get(i) == token else 1
                    last[i] = token
            open_cells = [i for i in cells if row[i] == MASK]
            top = max(open_cells, key=lambda i: (float(sure[i, last[i]]), -i))
            for i in open_cells:
                if run[i] >= times or i == top:
                    row[i] = last[i]
    return row[len(prompt) :], forwards


@pytest.mark.parametrize("family", FAMILIES)
def test_history_is_carried_row_by_row(family: str) -> None:
    """Ragged prompts, blocks that close at different forwards: memory stays with its row and its cell."""
    kinds = set()
    for times in (1, 2, 4):
        result = decode(tiny(family), Patient(times), PROMPTS, max_new_tokens=11, block_length=4)
        expected = [patient_by_hand(prompt, 11, 4, times, family) for prompt in PROMPTS]
        assert result.sequences == [tokens for tokens, _ in expected]
        assert result.nfe == [forwards for _, forwards in expected]
        kinds.add(len(set(result.nfe)))
    assert max(kinds) > 1  # blocks did close at different forwards


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_history_over_a_cache_is_independent_of_the_batch(cache: str) -> None:
    model = tiny("llada")
    together = decode(model, Patient(), PROMPTS, cache, max_new_tokens=11, block_length=4)
    for row, prompt in enumerate(PROMPTS):
        alone = decode(model, Patient(), [prompt], cache, max_new_tokens=11, block_length=4)
        assert (alone.sequences[0], alone.nfe[0]) == (together.sequences[row], together.nfe[row])


# --- branches ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Guess:
    """The last prediction: per cell the proposal and its confidence (0 = none), ``[B, G]``."""

    token: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class Lookahead(Policy):
    """Static decoding that forwards the canvas beside the one it expects to reach, and takes both steps if it does."""

    def begin(self, view: View) -> Guess:
        return Guess(view.tokens, torch.zeros_like(view.tokens, dtype=torch.float32))

    def query(self, view: View, memory: Guess) -> Query | None:
        inside = view.block_step > 0  # an opening forward fills the cache, and blocks are measured on it
        if not bool(inside.any()):
            return None
        expected = best(memory.confidence, view.open)
        draft = torch.where(expected, memory.token, view.tokens)
        known = memory.confidence.masked_fill(~expected, 0).sum(-1) > 0
        last = view.open.sum(-1) == 1  # a full block has nothing left to predict
        used = torch.stack([torch.ones_like(known), known & inside & ~last], 1)
        return Query(canvases=torch.stack([view.tokens, draft], 1), used=used)

    def decide(self, view: View, prediction: Prediction, memory: Guess) -> tuple[Decision, Memory]:
        now = prediction.pick(0) if prediction.branches > 1 else prediction
        first = best(now.confidence, now.open)
        write, values, turn = first, now.token, torch.where(first, 0, 1)
        after = now
        if prediction.branches > 1:
            then = prediction.pick(1)
            drafted = best(memory.confidence, view.open)
            right = (drafted == first).all(-1) & (torch.where(first, now.token == memory.token, True)).all(-1)
            right &= then.predicted.any(-1)
            second = best(then.confidence, then.open) & right[:, None]
            write, values = first | second, torch.where(second, then.token, values)
            chain = right[:, None].expand_as(second)
            after = replace(
                now,
                token=torch.where(chain, then.token, now.token),
                confidence=torch.where(chain, then.confidence, now.confidence),
            )
        return Decision(write, values, order=turn, turn=turn), Guess(
            after.token, after.confidence.masked_fill(write, 0)
        )


@pytest.mark.parametrize("branches", ["expand", "tree"])
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_draft_is_predicted_as_the_canvas_it_becomes(family: str, cache: str, branches: str) -> None:
    """5. The same tokens in the same order as one cell per forward, under every cache, in fewer forwards."""
    saved = 0
    for seed, block in ((0, 4), (1, 7)):
        setting = {"max_new_tokens": 11, "block_length": block, "branches": branches}
        static = decode(tiny(family, seed), TopK(k=1), PROMPTS, cache, **setting)
        ahead = decode(tiny(family, seed), Lookahead(), PROMPTS, cache, **setting)
        for row in range(len(PROMPTS)):
            assert ahead.sequences[row] == static.sequences[row]
            assert ahead.nfe[row] <= static.nfe[row]
            taken, expected = (
                [pair for step in run.trace[row].steps for pair in zip(step.cells, step.confidence, strict=True)]
                for run in (ahead, static)
            )
            assert [cell for cell, _ in taken] == [cell for cell, _ in expected]
            assert [p for _, p in taken] == pytest.approx([p for _, p in expected], abs=1e-4)
            assert (ahead.rows_forwarded[row] > ahead.nfe[row]) == (branches == "expand")
            assert ahead.tokens_forwarded[row] > static.tokens_forwarded[row] * ahead.nfe[row] / static.nfe[row]
        saved += sum(static.nfe) - sum(ahead.nfe)
    assert saved >= 3


@pytest.mark.parametrize("shift", [0, 1])
def test_branches_of_a_callable_are_rows(shift: int) -> None:
    """A model that cannot hide tokens gets its drafts as rows of their own, with no padding."""
    torch.manual_seed(3)
    weight = torch.randn(VOCAB, VOCAB)
    seen: list[tuple[int, ...]] = []

    def fn(ids: Tensor) -> Tensor:
        seen.append(tuple(ids.shape))
        mixed = F.one_hot(ids, VOCAB).float()
        return (mixed + mixed.mean(1, keepdim=True)) @ weight + torch.arange(ids.shape[1])[:, None].sin()

    model = CallableModel(fn, mask_id=MASK, vocab_size=VOCAB, shift=shift)
    static = decode(model, TopK(k=1), PROMPTS, max_new_tokens=8, block_length=4)
    ahead = decode(model, Lookahead(), PROMPTS, max_new_tokens=8, block_length=4)
    assert ahead.sequences == static.sequences
    assert sum(rows for rows, _ in seen) == sum(static.rows_forwarded) + sum(ahead.rows_forwarded)
    with pytest.raises(DllmError, match="cannot hide tokens of one row from each other, so branches='tree' cannot"):
        decode(model, Lookahead(), PROMPTS, branches="tree")


# --- shadow cells and revokes --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Doubt(Policy):
    """Commit generously; ask a shadow of every committed cell of the block, and take back what it contradicts."""

    accept: float = 0.3
    keep: float = 0.6
    revises = True

    def bind(self, setting: Setting) -> Doubt:
        if not setting.shadows:
            raise PolicyError("Doubt forwards shadow cells, which this model cannot; use another policy.")
        return self

    def query(self, view: View, memory: Memory) -> Query:
        return Query(shadow=view.in_block & ~view.masked)

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:
        decision = commit(prediction.confidence >= self.accept, prediction)
        if prediction.shadow is None:
            return decision, memory
        shadow = prediction.shadow
        wrong = shadow.predicted & ((shadow.token != view.tokens) | (shadow.confidence < self.keep))
        room = decision.write.sum(-1) - 1  # one cell must be won
        taken_back = wrong & (wrong.cumsum(-1) <= room[:, None])
        values = torch.where(taken_back, view.mask_id, decision.values)
        return replace(decision, write=decision.write | taken_back, values=values), memory


@pytest.mark.parametrize("cache", CACHES)
def test_revokes_run_through_the_loop(cache: str) -> None:
    revoked = 0
    for seed in range(3):
        model = tiny("llada", seed)
        together = decode(model, Doubt(), PROMPTS, cache, max_new_tokens=11, block_length=8)
        for row, prompt in enumerate(PROMPTS):
            alone = decode(model, Doubt(), [prompt], cache, max_new_tokens=11, block_length=8)
            assert alone.sequences[0] == together.sequences[row] and MASK not in alone.sequences[0]
            assert commits(alone) == commits(together, row)
            trace = together.trace[row]
            assert trace.replay() == together.sequences[row]
            assert sorted(trace.order()) == list(range(11))
            revoked += sum(new == MASK for step in trace.steps for new in step.new)
            for i, step in enumerate(trace.steps):  # the twins are paid for
                twins = sum(token != MASK for token in trace.replay(i)[step.start : step.end]) * (not step.opening)
                last = len(prompt) + (step.end if cache == "dual" and not step.opening else 11)
                first = 0 if cache == "none" or step.opening else len(prompt) + step.start
                assert step.tokens == last - first + twins
    assert revoked > 5


def test_what_may_be_revoked_is_not_settled() -> None:
    """A stream sends settled text once, so cells that a part may take back are not settled before their block ends."""
    for seed in range(3):
        for event in DiffusionSampler(tiny("llada", seed), Doubt()).stream(
            [1, 2, 3], max_new_tokens=11, block_length=5, early_stop=False
        ):
            assert event.finished or event.settled <= event.end
            if not event.finished and MASK in event.tokens[event.start : event.end]:
                assert event.settled <= event.start


def attention_by_hand(model: NativeModel, tokens: list[int], positions: list[int], sees: Tensor) -> Tensor:
    """LLaDA's maths on one row with an explicit visibility matrix ``[Q, Q]`` -> logits ``[Q, V]``."""
    weights = {name: value.double() for name, value in model.module.state_dict().items()}
    config = model.module.config
    heads, size = config.n_heads, config.d_model // config.n_heads
    angle = torch.tensor(positions).double()[:, None] * config.rope_theta ** (
        -torch.arange(0, size, 2).double() / size
    )
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)

    def norm(x: Tensor, name: str) -> Tensor:
        return x * (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).rsqrt() * weights[name + ".weight"]

    def rope(x: Tensor) -> Tensor:
        x = x.unflatten(-1, (heads, size)).transpose(0, 1)
        left, right = x.chunk(2, -1)
        return x * cos + torch.cat([-right, left], -1) * sin

    x = weights["model.transformer.wte.weight"][torch.tensor(tokens)]
    for layer in range(config.n_layers):
        block = f"model.transformer.blocks.{layer}."

        def linear(value: Tensor, name: str, block: str = block) -> Tensor:
            return value @ weights[block + name + ".weight"].T

        h = norm(x, block + "attn_norm")
        q, k = rope(linear(h, "q_proj")), rope(linear(h, "k_proj"))
        v = linear(h, "v_proj").unflatten(-1, (heads, size)).transpose(0, 1)
        score = (q @ k.transpose(1, 2) / size**0.5).masked_fill(~sees, -torch.inf).softmax(-1)
        x = x + linear((score @ v).transpose(0, 1).flatten(1), "attn_out")
        h = norm(x, block + "ff_norm")
        x = x + linear(F.silu(linear(h, "ff_proj")) * linear(h, "up_proj"), "ff_out")
    return norm(x, "model.transformer.ln_f") @ weights["model.transformer.ff_out.weight"].T


@dataclass(frozen=True)
class AskShadows(Policy):
    """Write nothing on the opening forward; then ask shadows of all committed cells, keep the answer, finish."""

    answers: tuple[Prediction, ...] = ()

    def query(self, view: View, memory: Memory) -> Query | None:
        return None if bool((view.block_step == 0).all()) else Query(shadow=view.valid & ~view.masked)

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:
        write = prediction.open & (view.block_step > 0)[:, None]
        if prediction.shadow is not None:
            HEARD.append((prediction, prediction.shadow))
        return Decision(write, prediction.token, hold=~write.any(-1)), memory


HEARD: list[tuple[Prediction, Prediction]] = []


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_shadow_sees_everything_but_its_original(cache: str, seed: int) -> None:
    """Against the maths written out: twins hide their originals and are hidden from everyone, also over a cache.

    Nothing is committed before the shadows are asked, so the cached keys equal those of the full forward.
    """
    model = tiny("llada", seed)
    prompts = [[1, 2, MASK, 5, MASK, 7, 8], [9, MASK, MASK, 3]]  # given cells 1, 3, 4 and 2 of the canvases
    HEARD.clear()
    # The maths written out knows nothing of end tokens kept out of holes with text behind them.
    decode(model, AskShadows(), prompts, cache, max_new_tokens=1, infill=True, infill_ends=True, block_length=None)
    ((plain, shadow),) = HEARD
    assert shadow.predicted.int().tolist() == [[0, 1, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0]]
    for row, prompt in enumerate(prompts):
        tokens = [*prompt, MASK]
        offset, count = prompt.index(MASK), len(tokens)
        everyone = torch.ones(count, count, dtype=torch.bool)
        logits = attention_by_hand(model, tokens, list(range(count)), everyone)
        for slot in range(offset, count):
            cell = slot - offset
            if tokens[slot] == MASK:
                check(plain, row, cell, logits[slot])
                continue
            sees = torch.zeros(count + 1, count + 1, dtype=torch.bool)
            sees[:count, :count] = True
            sees[count] = True
            sees[count, slot] = False
            twin = attention_by_hand(model, [*tokens, MASK], [*range(count), slot], sees)
            torch.testing.assert_close(twin[:count], logits)  # nobody sees the twin
            check(shadow, row, cell, twin[count])


def test_nothing_to_shadow_is_a_plain_forward() -> None:
    HEARD.clear()
    result = decode(tiny("llada"), AskShadows(), [[1, 2], [3]], max_new_tokens=4, block_length=None)
    ((_, shadow),) = HEARD
    assert not shadow.predicted.any() and shadow.token.shape == (2, 4)
    assert result.tokens_forwarded == [12, 10]


def check(prediction: Prediction, row: int, cell: int, logits: Tensor) -> None:
    """One cell's proposal and confidence against logits ``[V]``."""
    sure = logits.softmax(-1)
    token = int(logits.index_fill(0, torch.tensor([MASK]), -torch.inf).argmax())
    assert int(prediction.token[row, cell]) == token
    assert float(prediction.confidence[row, cell]) == pytest.approx(float(sure[token]), abs=1e-5)


def test_shadows_where_they_cannot_work_are_refused() -> None:
    """A shifted model scores a cell elsewhere, and a callable cannot hide tokens."""
    dream, callable_model = (
        tiny("dream"),
        CallableModel(lambda ids: torch.zeros(*ids.shape, 6), mask_id=5, vocab_size=6),
    )
    for model in (dream, callable_model):
        with pytest.raises(PolicyError, match="Doubt forwards shadow cells, which this model cannot"):
            DiffusionSampler(model, Doubt())
        with pytest.raises(DllmError, match="cannot forward shadow cells; a policy that asks for them must refuse"):
            decode(model, AskShadows(), [[1, 2]], max_new_tokens=4)


# --- early stop ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class SureEnough(Policy):
    """Stop a row and fill it with the proposals once its masks are confident on the mean."""

    mean: float = 0.5
    scope = Scope.REST

    def finish(
        self, view: View, prediction: Prediction, decision: Decision, memory: Memory
    ) -> tuple[Decision, Memory]:
        left = view.masked & prediction.predicted
        mean = (prediction.confidence * left).sum(-1) / left.sum(-1).clamp(min=1)
        stop = (mean >= self.mean) & ((view.masked & ~prediction.predicted).sum(-1) == 0)
        fill = left & stop[:, None]
        values = torch.where(fill & ~decision.write, prediction.token, decision.values)
        return replace(decision, write=decision.write | fill, values=values, stop=stop), memory


@pytest.mark.parametrize("family", FAMILIES)
def test_early_stop_ends_its_row_alone(family: str) -> None:
    model = tiny(family)
    ended: list[int] = []
    together = decode(model, TopK() | SureEnough(0.45), PROMPTS, max_new_tokens=11, block_length=4)
    for row, prompt in enumerate(PROMPTS):
        alone = decode(model, TopK() | SureEnough(0.45), [prompt], max_new_tokens=11, block_length=4)
        assert (alone.sequences[0], alone.nfe[0]) == (together.sequences[row], together.nfe[row])
        ended.append(alone.nfe[0])
        assert len(together.trace[row].steps[-1].cells) == 11 - (alone.nfe[0] - 1)
    assert min(ended) < 11
    assert decode(model, TopK() | SureEnough(1.1), PROMPTS, max_new_tokens=11, block_length=4).nfe == [11] * 3


@dataclass(frozen=True)
class Cut(Policy):
    """Shorten every row to ``cells`` as soon as its block reaches there."""

    cells: int = 6

    def finish(
        self, view: View, prediction: Prediction, decision: Decision, memory: Memory
    ) -> tuple[Decision, Memory]:
        length = torch.where(view.end >= self.cells, self.cells, view.length)
        return replace(decision, length=torch.minimum(length, view.length)), memory


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_row_is_as_long_as_it_says(family: str, cache: str) -> None:
    result = decode(tiny(family), TopK() | Cut(6), PROMPTS, cache, max_new_tokens=11, block_length=4)
    assert [len(s) for s in result.sequences] == [6, 6, 6] == result.canvas_tokens
    for row, trace in enumerate(result.trace):
        assert trace.replay() == result.sequences[row]
        assert max(cell for step in trace.steps for cell in step.cells) == 5
        assert {step.length for step in trace.steps} == {11, 6}
        # the block that cut the row is the last, and later forwards hold no more than the shorter row
        for before, step in itertools.pairwise(trace.steps):
            if before.length == 6 and (cache == "none" or step.opening):
                assert step.tokens == len(PROMPTS[row]) + 6


# --- adaptive blocks -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ByToken(Policy):
    """The proposal at the block's first cell says how long the block is: ``2 + token % 4``."""

    def block_length(self, view: View, prediction: Prediction, memory: Memory) -> Tensor:
        return 2 + prediction.token.gather(1, view.start[:, None])[:, 0] % 4


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("decider", [TopK(k=1), TopK(k=2), Lookahead()])
def test_rows_with_their_own_blocks(family: str, cache: str, decider: Policy) -> None:
    """Rows open, step and finish at different forwards of one batch; each gets what it gets alone."""
    lengths = set()
    for seed in range(2):
        model = tiny(family, seed)
        together = decode(model, ByToken() | decider, PROMPTS, cache, max_new_tokens=17, block_length=4)
        for row, prompt in enumerate(PROMPTS):
            alone = decode(model, ByToken() | decider, [prompt], cache, max_new_tokens=17, block_length=4)
            assert alone.sequences[0] == together.sequences[row]
            assert [s.cells for s in alone.trace[0].steps] == [s.cells for s in together.trace[row].steps]
            assert alone.tokens_forwarded[0] == together.tokens_forwarded[row]
            bounds = [(s.start, s.end) for s in together.trace[row].steps if s.opening]
            assert bounds[0][0] == 0 and bounds[-1][1] == 17
            assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
            lengths |= {end - start for start, end in bounds[:-1]}
            assert together.full_forwards[row] == (together.nfe[row] if cache == "none" else len(bounds))
    assert len(lengths) >= 3 and min(lengths) >= 2 and max(lengths) <= 5


def test_block_length_is_asked_on_the_opening_forward_alone() -> None:
    asked: list[list[int]] = []

    @dataclass(frozen=True)
    class Asked(ByToken):
        def block_length(self, view: View, prediction: Prediction, memory: Memory) -> Tensor:
            asked.append(view.block_step.tolist())
            return super().block_length(view, prediction, memory)

    result = decode(tiny("llada"), Asked() | TopK(), [PROMPTS[0]], "dual", max_new_tokens=17)
    assert asked == [[0]] * result.full_forwards[0]


# --- a policy that breaks the contract is stopped ------------------------------------------------------------------
@dataclass(frozen=True)
class Idle(Policy):
    """Never commits."""

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:
        return Decision(torch.zeros_like(view.masked), prediction.token), memory


def test_a_policy_that_commits_nothing_is_stopped() -> None:
    with pytest.raises(PolicyError, match=r"Idle commits nothing and does not hold \(row 0, cell 0, step 1\)"):
        decode(tiny("llada"), Idle(), PROMPTS, max_new_tokens=4)

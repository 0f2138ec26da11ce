"""The two families against recorded forwards, and the invariants of the forward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dllm_decode.attention import backends, rotate
from dllm_decode.errors import CacheError, DllmError
from dllm_decode.models import ForwardInput, layers
from tests.dllm_decode.tiny import logits, plain, tiny
from tests.references.golden_data import golden_model, golden_path

BASELINE = ("baseline/tiny-llada", "baseline/tiny-dream")
STALE = ("llada", "dream")


@pytest.mark.golden
@pytest.mark.parametrize("name", BASELINE)
def test_recorded_logits_and_hidden_states(name: str) -> None:
    module, data = golden_model(name).module, load_file(golden_path(f"{name}/forward.safetensors"))
    cases = sorted(key.removeprefix("ids_") for key in data if key.startswith("ids_"))
    assert cases
    for case in cases:
        mask = data.get(f"attention_mask_{case}")
        with torch.no_grad():
            out = module(data[f"ids_{case}"], mask, data.get(f"position_ids_{case}"), output_hidden_states=True)
        real = torch.ones_like(data[f"ids_{case}"], dtype=torch.bool) if mask is None else mask.bool()
        torch.testing.assert_close(out.logits[real], data[f"logits_{case}"][real], atol=5e-4, rtol=0)
        for layer, hidden in enumerate(out.hidden_states):
            if (expected := data.get(f"hidden_{case}_{layer}")) is not None:
                torch.testing.assert_close(hidden, expected, atol=5e-4, rtol=0)


@pytest.mark.golden
@pytest.mark.parametrize("name", BASELINE)
def test_recorded_logits_through_the_engine_interface(name: str) -> None:
    """Left padding becomes per-row lengths: the padded rows of the recording, without their pads."""
    model, data = golden_model(name), load_file(golden_path(f"{name}/forward.safetensors"))
    for key in (key for key in data if key.startswith("ids_")):
        ids, case = data[key], key.removeprefix("ids_")
        keep = data.get(f"attention_mask_{case}", torch.ones_like(ids)).bool()
        queries = keep.sum(1)
        tokens = torch.zeros_like(ids)
        for r, n in enumerate(queries.tolist()):
            tokens[r, :n] = ids[r, keep[r]]
        inp = ForwardInput(tokens, torch.arange(ids.shape[1]).expand_as(ids), queries, queries)
        got = logits(model, inp)
        for r, n in enumerate(queries.tolist()):
            torch.testing.assert_close(got[r, :n], data[f"logits_{case}"][r, keep[r]], atol=5e-4, rtol=0)


@pytest.mark.golden
@pytest.mark.parametrize("family", STALE)
def test_recorded_stale_cache_logits(family: str) -> None:
    model = golden_model(f"fast_dllm/tiny_{family}")
    with np.load(golden_path(f"fast_dllm/{family}_forward.npz")) as arrays:
        data = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    x, x2, (start, end) = data["x"], data["x2"], data["block"].tolist()
    rows, total = x.shape
    close = {"atol": 1e-4, "rtol": 0}
    torch.testing.assert_close(logits(model, plain(x)), data["full"], **close)
    torch.testing.assert_close(logits(model, plain(x2)), data["full_x2"], **close)
    for kind, stop in (("prefix", total), ("dual", end)):
        cache = model.new_cache(rows, total)
        torch.testing.assert_close(logits(model, plain(x, cache=cache)), data["full"], **close)
        fresh = x2[:, start:stop]
        queries = torch.full((rows,), stop - start)
        positions = torch.arange(start, stop).expand(rows, -1)
        inp = ForwardInput(fresh, positions, queries, torch.full((rows,), total), cache=cache)
        torch.testing.assert_close(logits(model, inp), data[kind], **close)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_ragged_batch_equals_single_rows(family: str) -> None:
    """With and without a cache, in any row order, opening and stepping."""
    model, generator = tiny(family), torch.Generator().manual_seed(1)
    lengths = torch.tensor([9, 4, 13, 7])
    tokens = torch.randint(0, 39, (4, 13), generator=generator)
    positions = torch.arange(13).expand(4, -1)
    batch = logits(model, ForwardInput(tokens, positions, lengths, lengths))
    order = torch.tensor([2, 0, 3, 1])
    cache = model.new_cache(5, 16)
    opened = logits(model, ForwardInput(tokens, positions, lengths, lengths, cache=cache, rows=order))
    block = torch.randint(0, 39, (4, 3), generator=generator)
    widths = torch.tensor([3, 2, 3, 1])
    start = torch.tensor([4, 2, 10, 0])
    where = start[:, None] + torch.arange(3)
    step = logits(model, ForwardInput(block, where, widths, lengths, cache=cache, rows=order))
    for r, n in enumerate(lengths.tolist()):
        single = logits(model, plain(tokens[r : r + 1, :n]))
        torch.testing.assert_close(batch[r, :n], single[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(opened[r, :n], single[0], atol=1e-5, rtol=0)
        alone = model.new_cache(1, n)
        logits(model, plain(tokens[r : r + 1, :n], cache=alone))
        w = int(widths[r])
        inp = ForwardInput(
            block[r : r + 1, :w], where[r : r + 1, :w], widths[r : r + 1], lengths[r : r + 1], cache=alone
        )
        torch.testing.assert_close(step[r, :w], logits(model, inp)[0], atol=1e-5, rtol=0)
    assert cache.data[:, :, 4, :, :16].eq(0).all(), "a row that was not forwarded changed"


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_unchanged_ids_make_the_cache_exact(family: str) -> None:
    model = tiny(family)
    tokens = torch.randint(0, 39, (2, 12), generator=torch.Generator().manual_seed(2))
    cache = model.new_cache(2, 12)
    full = logits(model, plain(tokens, cache=cache))
    part = ForwardInput(
        tokens[:, 5:9], torch.arange(5, 9).expand(2, -1), torch.full((2,), 4), torch.full((2,), 12), cache=cache
    )
    torch.testing.assert_close(logits(model, part), full[:, 5:9], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_cached_branches_equal_separate_rows(family: str) -> None:
    """K futures of one block in one row see what each would see in a row and cache of its own."""
    model, generator = tiny(family), torch.Generator().manual_seed(3)
    totals, starts, width, count = [12, 9], [6, 4], 3, 3
    tokens = torch.randint(0, 39, (2, 12), generator=generator)
    drafts = torch.randint(0, 39, (2, count, width), generator=generator)
    blocks = torch.stack([torch.arange(s, s + width) for s in starts])
    lengths, cache = torch.tensor(totals), model.new_cache(2, 12)
    logits(model, ForwardInput(tokens, torch.arange(12).expand(2, -1), lengths, lengths, cache=cache))
    before = cache.data.clone()
    branch = torch.arange(count).repeat_interleave(width).expand(2, -1)
    queries = torch.full((2,), count * width)
    inp = ForwardInput(drafts.flatten(1), blocks.repeat(1, count), queries, lengths, branch=branch, cache=cache)
    got = logits(model, inp).view(2, count, width, -1)
    # The same futures as rows of their own that share a cache row.
    apart = ForwardInput(
        drafts.flatten(0, 1),
        blocks.repeat_interleave(count, 0),
        torch.full((2 * count,), width),
        lengths.repeat_interleave(count),
        branch=torch.zeros(2 * count, width, dtype=torch.long),
        cache=cache,
        rows=torch.arange(2).repeat_interleave(count),
    )
    torch.testing.assert_close(logits(model, apart).view_as(got), got, atol=1e-5, rtol=0)
    assert torch.equal(cache.data[..., :12, :], before[..., :12, :]), "branch tokens must not be written"
    for r, n in enumerate(totals):
        for b in range(count):
            own = model.new_cache(1, n)
            logits(model, plain(tokens[r : r + 1, :n], cache=own))
            alone = ForwardInput(
                drafts[r, b][None], blocks[r][None], torch.tensor([width]), torch.tensor([n]), cache=own
            )
            torch.testing.assert_close(got[r, b], logits(model, alone)[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_shared_tokens_are_written_and_do_not_see_branches(family: str) -> None:
    """A step that forwards the block and, beside it, shadow tokens for some of its slots."""
    model, generator = tiny(family), torch.Generator().manual_seed(10)
    tokens, fresh = (torch.randint(0, 39, (1, n), generator=generator) for n in (10, 6))
    block = torch.arange(4, 8)
    caches = [model.new_cache(1, 10) for _ in range(2)]
    for cache in caches:
        logits(model, plain(tokens, cache=cache))
    total = torch.tensor([10])
    both = ForwardInput(
        fresh,
        torch.cat([block, block[[1, 3]]])[None],
        torch.tensor([6]),
        total,
        branch=torch.tensor([[-1, -1, -1, -1, 0, 1]]),
        cache=caches[0],
    )
    alone = ForwardInput(fresh[:, :4], block[None], torch.tensor([4]), total, cache=caches[1])
    torch.testing.assert_close(logits(model, both)[:, :4], logits(model, alone), atol=1e-5, rtol=0)
    torch.testing.assert_close(caches[0].data[..., :10, :], caches[1].data[..., :10, :], atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_uncached_branches_equal_separate_rows_in_one_layer(family: str) -> None:
    """Keys of the first layer do not depend on the context, so there a branch equals a row of its own exactly."""
    layers = {"n_layers": 1} if family == "llada" else {"num_hidden_layers": 1}
    model, generator = tiny(family, **layers), torch.Generator().manual_seed(4)
    tokens = torch.randint(0, 39, (1, 8), generator=generator)
    drafts = torch.randint(0, 39, (2, 3), generator=generator)
    block = torch.arange(4, 7)
    joined = torch.cat([tokens, drafts.flatten()[None]], dim=1)
    positions = torch.cat([torch.arange(8), block, block])[None]
    branch = torch.tensor([[-1] * 8 + [0] * 3 + [1] * 3])
    got = logits(model, ForwardInput(joined, positions, torch.tensor([14]), torch.tensor([8]), branch=branch))[0]
    for b in range(2):
        row = tokens.clone()
        row[0, block] = drafts[b]
        expected = logits(model, plain(row))[0, block]
        torch.testing.assert_close(got[8 + 3 * b : 11 + 3 * b], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_hidden_at_chosen_cells_is_the_full_forward_there(family: str) -> None:
    model = tiny(family)
    inp = plain(torch.randint(0, 39, (3, 7), generator=torch.Generator().manual_seed(5)))
    cells = torch.tensor([20, 3, 3, 11])
    torch.testing.assert_close(model.hidden(inp, cells), model.hidden(inp, torch.arange(21))[cells], atol=1e-6, rtol=0)
    assert model.head(model.hidden(inp, cells[:0])).shape == (0, 40)


def test_padding_tokens_change_nothing() -> None:
    model, lengths = tiny("llada"), torch.tensor([5, 2])
    tokens = torch.randint(0, 39, (2, 5), generator=torch.Generator().manual_seed(6))
    positions = torch.arange(5).expand(2, -1)
    first = logits(model, ForwardInput(tokens, positions, lengths, lengths))
    other = tokens.clone()
    other[1, 2:] = 17
    second = logits(model, ForwardInput(other, positions * (positions < lengths[:, None]), lengths, lengths))
    assert torch.equal(first[1, :2], second[1, :2])
    assert first.isfinite().all() and second.isfinite().all()


@pytest.mark.parametrize(("family", "expected"), [("llada", torch.float32), ("dream", torch.bfloat16)])
def test_rope_precision_is_per_family(family: str, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model, used, turn = tiny(family), set(), backends.turn
    model.module.bfloat16()
    monkeypatch.setattr(backends, "turn", lambda x, cos, sin: used.add(cos.dtype) or turn(x, cos, sin))
    assert logits(model, plain(torch.arange(5)[None])).dtype == torch.bfloat16
    assert used == {expected}


def test_rotating_in_fp32_is_more_exact_for_bf16_keys() -> None:
    x = torch.randn(1, 1, 64, 16, generator=torch.Generator().manual_seed(7)).bfloat16()
    cos, sin = layers.rotary_tables(torch.arange(2000, 2064)[None], 16, 10000.0)
    exact = rotate(x.double(), cos.double(), sin.double())
    full = (rotate(x, cos, sin).double() - exact).abs().max()
    model_dtype = (rotate(x, cos.bfloat16(), sin.bfloat16()).double() - exact).abs().max()
    assert full < model_dtype


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_trains_under_bf16_autocast(family: str) -> None:
    module = tiny(family).module.train()
    ids = torch.randint(0, 39, (4, 10), generator=torch.Generator().manual_seed(8))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    losses = []
    for _ in range(8):
        with torch.autocast("cpu", torch.bfloat16):
            out = module(ids).logits
        loss = torch.nn.functional.cross_entropy(out.float().flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_bf16_stays_near_fp32(family: str) -> None:
    """Small random nets are not chaotic at one layer: bf16 is a rounding away."""
    model = tiny(family, **({"n_layers": 1} if family == "llada" else {"num_hidden_layers": 1}))
    inp = plain(torch.randint(0, 39, (2, 9), generator=torch.Generator().manual_seed(9)))
    exact = logits(model, inp)
    model.module.bfloat16()
    low = logits(model, inp)
    assert low.dtype == torch.bfloat16
    assert (low.float() - exact).abs().max() < 0.1 * exact.std()


def test_cache_errors_carry_the_numbers() -> None:
    model = tiny("llada")
    with pytest.raises(CacheError, match=r"at least 1, got \{'slots': 0\}"):
        model.new_cache(1, 0)
    with pytest.raises(
        CacheError, match=r"not enough memory on cpu for a KV cache of .* GiB \(1000000000 rows x 4096"
    ):
        model.new_cache(10**9, 4096)
    assert model.cache_bytes(3, 10) == model.new_cache(3, 10).data.nbytes
    cache, tokens = model.new_cache(1, 4), torch.zeros(2, 4, dtype=torch.long)
    with pytest.raises(DllmError, match="row 1 with 4 slots does not fit a cache of 1 rows x 4 slots"):
        logits(model, plain(tokens, cache=cache))
    with pytest.raises(DllmError, match="row 0 with 5 slots does not fit"):
        logits(model, plain(torch.zeros(1, 5, dtype=torch.long), cache=cache))

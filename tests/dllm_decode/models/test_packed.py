"""Packed linear layers: the same product, the same for a row in any batch, and no second copy of the weights."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dllm_decode.models import LLaDA, LLaDAConfig, NativeModel
from dllm_decode.models.packed import LEAST_ELEMENTS, PackedLinear, can_pack, pack_linears
from tests.dllm_decode.tiny import logits, plain

needs_packing = pytest.mark.skipif(not can_pack(torch.empty(LEAST_ELEMENTS)), reason="no packed product here")


def big(bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(256, 2100, bias=bias, dtype=dtype)


@needs_packing
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_the_product_is_the_same(bias: bool) -> None:
    linear, x = big(bias), torch.randn(5, 3, 256)
    packed = PackedLinear(linear)
    torch.testing.assert_close(packed(x), linear(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(packed.weight, linear.weight) and packed.nbytes == linear.weight.nbytes


@needs_packing
@given(rows=st.integers(1, 70), first=st.integers(0, 8))
@torch.no_grad()
def test_a_row_gets_the_same_in_any_batch(rows: int, first: int) -> None:
    packed, x = PackedLinear(big()), torch.randn(80, 256, generator=torch.Generator().manual_seed(1))
    assert torch.equal(packed(x[first : first + rows]), packed(x)[first : first + rows])


@needs_packing
@torch.no_grad()
def test_a_model_is_packed_in_place() -> None:
    torch.manual_seed(0)
    config = LLaDAConfig(d_model=128, n_layers=1, n_heads=4, mlp_hidden_size=160, vocab_size=5000, mask_token_id=4999)
    module = LLaDA(config)
    model = NativeModel(module, mask_id=4999)
    inp = plain(torch.randint(0, 4999, (2, 7)))
    before = logits(model, inp)
    old = weakref.ref(module.get_output_embeddings().weight)
    assert pack_linears(module) == 1, "the head alone is large"
    gc.collect()
    assert old() is None, "the weight is held once"
    assert isinstance(module.get_output_embeddings(), PackedLinear)
    torch.testing.assert_close(logits(model, inp), before, atol=1e-5, rtol=1e-5)
    assert pack_linears(module) == 0


def test_what_stays_as_it_is() -> None:
    assert not can_pack(torch.empty(10)), "small ones"
    assert not can_pack(torch.empty(LEAST_ELEMENTS, dtype=torch.float64))
    assert not can_pack(torch.empty(LEAST_ELEMENTS, device="meta"))
    linear = nn.Linear(4, 4)
    holder = nn.Sequential(linear)
    assert pack_linears(holder) == 0 and holder[0] is linear
    torch.testing.assert_close(holder(torch.ones(1, 4)), F.linear(torch.ones(1, 4), linear.weight, linear.bias))


@needs_packing
@given(rows=st.integers(2, 70), first=st.integers(0, 8))
@torch.no_grad()
def test_over_columns_too(rows: int, first: int) -> None:
    """A small weight laid out by columns: the same numbers in place, and of two rows or more in any batch."""
    torch.manual_seed(0)
    linear, x = nn.Linear(128, 384, bias=False), torch.randn(80, 128, generator=torch.Generator().manual_seed(1))
    before, weight = linear(x), linear.weight.clone()
    assert pack_linears(nn.Sequential(linear)) == 0
    assert torch.equal(linear.weight, weight) and linear.weight.stride() == (1, 384)
    torch.testing.assert_close(linear(x), before, atol=1e-6, rtol=1e-5)
    assert torch.equal(linear(x[first : first + rows]), linear(x)[first : first + rows])

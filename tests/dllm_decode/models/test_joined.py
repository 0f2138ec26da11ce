"""One product for q, k, v and one for gate, up: the same numbers, names, memory and independence of rows."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dllm_decode.models import LLaDA, LLaDAConfig, NativeModel, load_model
from dllm_decode.models.decoder import BidirectionalLM
from dllm_decode.models.packed import PackedRows, can_pack
from tests.dllm_decode.tiny import logits, plain, tiny

FAMILIES = ("llada", "dream")


def pointers(module: BidirectionalLM) -> int:
    """Bytes of all weights, each memory counted once."""
    return sum({p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in module.parameters()}.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_numbers_over_the_same_memory(family: str) -> None:
    model = tiny(family)
    inp, taken = plain(torch.randint(0, 20, (3, 7))), pointers(model.module)
    before, names = logits(model, inp), list(model.module.state_dict())
    state = {name: value.clone() for name, value in model.module.state_dict().items()}
    model.module.ready()
    torch.testing.assert_close(logits(model, inp), before, atol=1e-6, rtol=1e-5)
    assert list(model.module.state_dict()) == names and pointers(model.module) == taken
    assert all(torch.equal(value, state[name]) for name, value in model.module.state_dict().items())
    with torch.no_grad():  # weights are changed in place: the product sees it
        for parameter in model.module.parameters():
            parameter.mul_(0.5)
    halved = logits(model, inp)
    for block in model.module._parts(model.module)[1]:
        block._joint = [None] * 4
    torch.testing.assert_close(logits(model, inp), halved, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_steps_aside(family: str) -> None:
    """For an adapter in a layer's place, a copy, other dtypes, assigned weights, and gradients."""
    model = tiny(family)
    inp = plain(torch.randint(0, 20, (1, 5)))
    model.module.ready()
    block = model.module._parts(model.module)[1][0]
    joint, names = block._joint[0], block._joinable[0]
    parts = [block.get_submodule(name) for name in names]
    assert joint is not None and not joint.stands_for(parts), "gradients are on"
    with torch.no_grad():
        assert joint.stands_for(parts)
        other = copy.deepcopy(block)
        copied = [other.get_submodule(name) for name in names]
        assert not other._joint[0].stands_for(copied)
    wrapped = nn.Sequential(parts[0])
    holder, _, last = names[0].rpartition(".")
    setattr(block.get_submodule(holder), last, wrapped)
    with torch.no_grad():
        assert not joint.stands_for([wrapped, *parts[1:]])
    logits(model, inp)
    model.module.double()
    assert block._joint == [None] * 4 and logits(model, inp).dtype == torch.float64


def test_a_loaded_checkpoint_is_saved_as_it_was(tmp_path: Path) -> None:
    model = load_model("tiny", dtype="bfloat16")
    block = model.module._parts(model.module)[1][0]
    assert all(joint is not None for joint in block._joint)
    model.module.save_pretrained(tmp_path)
    written, original = load_file(tmp_path / "model.safetensors"), load_model("tiny", dtype="bfloat16").module
    assert written.keys() == original.state_dict().keys()
    assert all(torch.equal(value, written[name]) for name, value in original.state_dict().items())


@pytest.mark.skipif(not can_pack(torch.empty(1 << 20)), reason="no packed product here")
@torch.no_grad()
def test_large_products_are_packed_together() -> None:
    torch.manual_seed(0)
    config = LLaDAConfig(d_model=512, n_layers=1, n_heads=8, mlp_hidden_size=640, vocab_size=90, mask_token_id=89)
    module = LLaDA(config)
    model, block = NativeModel(module, mask_id=89), module.model.transformer.blocks[0]
    inp = plain(torch.randint(0, 80, (40, 3)))
    before, weight = logits(model, inp), block.k_proj.weight.clone()
    module.ready()
    assert isinstance(block.k_proj, PackedRows) and torch.equal(block.k_proj.weight, weight)
    torch.testing.assert_close(logits(model, inp), before, atol=1e-5, rtol=1e-5)
    x = torch.randn(40, 512)
    q, k, v = block._joint[0](x)
    for rows in (1, 2, 5):
        assert torch.equal(block._joint[0](x[:rows])[1], k[:rows]), "a row is the same in any batch"
    assert torch.equal(block.k_proj(x), k) and torch.equal(block.q_proj(x), q) and torch.equal(block.v_proj(x), v)

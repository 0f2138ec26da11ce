"""Families of 2026: recorded logits through the engine's interface, over a cache, and through the module alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dllm_decode.errors import ConfigError, DllmError, LoadError
from dllm_decode.interface.cache import KVCache
from dllm_decode.interface.inputs import ForwardInput
from dllm_decode.models import FAMILIES, NativeModel, load_model
from dllm_decode.models.families import LISTED, VERIFIED
from tests.dllm_decode.tiny import tiny
from tests.references.golden_data import golden_model, golden_path

CLOSE = {"atol": 5e-4, "rtol": 0}
FOLDERS = sorted(p.parent.name for p in golden_path("block_models").glob("*/logits.safetensors"))


def said(model: NativeModel, ids: Tensor, start: int = 0, cache: KVCache | None = None, block: int | None = None):
    """Raw logits of ids that stand from slot ``start`` on."""
    count = len(ids)
    positions, lengths = (start + torch.arange(count))[None], torch.tensor([start + count])
    inp = ForwardInput(ids[None], positions, torch.tensor([count]), lengths, cache=cache, block=block)
    return model.head(model.hidden(inp, torch.arange(count)))


@pytest.mark.golden
@pytest.mark.parametrize("name", FOLDERS)
def test_recorded_logits(name: str) -> None:
    """The whole sequence at once; its last block over a cache; another last block over the same cache."""
    model, path = golden_model(f"block_models/{name}"), golden_path(f"block_models/{name}/logits.safetensors")
    data = load_file(path)
    with safe_open(path, framework="pt") as file:
        inputs = json.loads((file.metadata() or {}).get("inputs", "[]"))
    for case in inputs:
        i, block, start = case["i"], case["block"], case["start"]
        ids = data[f"ids_{i}"]
        torch.testing.assert_close(said(model, ids, block=block), data[f"logits_{i}"], **CLOSE)
        if start:
            cache = model.new_cache(1, len(ids))
            said(model, ids[:start], cache=cache, block=block)
            for tokens, expected in (("ids2", "inc2"), ("ids", "inc")):
                last = data[f"{tokens}_{i}"][-(len(ids) - start) :]
                torch.testing.assert_close(said(model, last, start, cache), data[f"{expected}_{i}"], **CLOSE)
    for i in range(0 if inputs else len([key for key in data if key.startswith("ids_")])):
        keep = data.get(f"attention_mask_{i}", torch.ones_like(data[f"ids_{i}"])).bool()
        with torch.no_grad():
            logits = model.module(data[f"ids_{i}"], keep).logits
        torch.testing.assert_close(logits[keep], data[f"logits_{i}"][keep], **CLOSE)


@pytest.mark.golden
@pytest.mark.parametrize(
    "name", [n for n in FOLDERS if "moe_out" in load_file(golden_path(f"block_models/{n}/logits.safetensors"))]
)
def test_recorded_experts(name: str) -> None:
    """Which experts, with which weights, and what the first mixture makes of them."""
    model, data = (
        golden_model(f"block_models/{name}"),
        load_file(golden_path(f"block_models/{name}/logits.safetensors")),
    )
    block = next(b for b in model.module.model.layers if b._mixture is not None)
    with torch.no_grad():
        out = block.mlp(data["gate_in"])
        if block._mlp is not None:
            gate, up, down = block._mlp(block)
            out = out + down(torch.nn.functional.silu(gate(data["gate_in"])) * up(data["gate_in"]))
        torch.testing.assert_close(out, data["moe_out"], **CLOSE)
        if "gate_experts" in data:
            chosen, weights = block.mlp.gate(data["gate_in"])
            order = chosen.argsort(1)
            assert torch.equal(chosen.gather(1, order), data["gate_experts"])
            torch.testing.assert_close(weights.gather(1, order), data["gate_weights"], atol=1e-5, rtol=0)


@pytest.mark.golden
def test_the_module_alone_is_block_causal() -> None:
    model = golden_model("block_models/sdar")
    ids = torch.randint(0, 300, (2, 10), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model.module(ids).logits
    torch.testing.assert_close(logits[1], said(model, ids[1], block=4), **CLOSE)
    torch.testing.assert_close(logits[:, :8], model.module(ids[:, :8]).logits, **CLOSE)


def edited(source: str, folder: Path, **fields: object) -> Path:
    """A copy of a checkpoint with other fields in its config.json; None removes one."""
    folder.mkdir()
    config = json.loads((golden_path(source) / "config.json").read_text()) | fields
    config = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes((golden_path(source) / "model.safetensors").read_bytes())
    return folder


@pytest.mark.golden
def test_saved_experts_have_the_checkpoint_s_names(tmp_path: Path) -> None:
    source = golden_path("block_models/llada2")
    load_model(source).module.save_pretrained(tmp_path / "copy")
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "copy/model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.golden
def test_the_router_s_bias_stays_in_fp32() -> None:
    model = load_model(golden_path("block_models/llada2"), dtype="bfloat16")
    gate = model.module.model.layers[1].mlp.gate
    assert gate.expert_bias.dtype == torch.float32 and gate.weight.dtype == torch.bfloat16
    assert said(model, torch.arange(9), block=8).isfinite().all()


@pytest.mark.golden
@pytest.mark.parametrize(
    ("source", "fields", "message"),
    [
        ("llada2", {"image_token_offset": 157184}, "LLaDA2.0-Uni, which also reads and makes images"),
        (
            "llada2",
            {"expert_capacity": 48},
            r"LLaDA2.2 \(expert_capacity=48\), which chooses experts for whole blocks",
        ),
        ("llada2", {"hidden_size": None}, "llada2_moe config has hidden_size=0; it must be a positive integer"),
        ("llada2", {"score_function": "softmax"}, "has score_function='softmax', which is not supported"),
        ("llada2", {"num_experts_per_tok": 99}, "sends each token to 99 of 16 experts"),
        ("llada2", {"n_group": 3}, "16 experts in n_group=3 groups"),
        ("sdar", {"use_sliding_window": True}, "has use_sliding_window=True, which is not supported"),
        (
            "sdar",
            {"model_type": "nemotron_labs_diffusion"},
            "Nemotron-Labs-Diffusion stores blocks by a causal forward",
        ),
        ("llada_moe", {"moe_layer_freq": [1]}, "lists 1 layers in moe_layer_freq but has 3"),
    ],
)
def test_what_looks_alike_is_refused_by_name(tmp_path: Path, source: str, fields: dict, message: str) -> None:
    with pytest.raises((ConfigError, LoadError), match=message):
        load_model(edited(f"block_models/{source}", tmp_path / "copy", **fields))


@pytest.mark.golden
def test_the_attention_block_is_the_file_s_the_caller_s_or_asked_for(tmp_path: Path) -> None:
    assert load_model(golden_path("block_models/sdar")).attention_block == 4
    assert load_model(golden_path("block_models/sdar"), attention_block=16).attention_block == 16
    assert load_model(edited("block_models/sdar", tmp_path / "old", block_size=None)).attention_block == 4
    odd = edited("block_models/sdar", tmp_path / "SDAR-1.7B-Chat-b16")
    with pytest.raises(LoadError, match=r"sounds like attention blocks of 16 cells, .* they have 4; say which"):
        load_model(odd)
    assert load_model(odd, attention_block=16).attention_block == 16
    with pytest.raises(DllmError, match="attention_block is 8, but every cell of this model sees all others"):
        load_model("tiny", attention_block=8)


@pytest.mark.golden
def test_ids_that_no_file_names_are_the_family_s(tmp_path: Path) -> None:
    """LLaDA2's config.json names neither mask nor end; the tiny vocabulary has no room for the real ids."""
    with pytest.raises(LoadError, match="names no mask_token_id"):
        load_model(edited("block_models/llada2", tmp_path / "small", mask_token_id=None))
    folder = edited("block_models/llada2", tmp_path / "real", mask_token_id=None, vocab_size=157184)
    weights = load_file(folder / "model.safetensors")
    for name in ("model.word_embeddings.weight", "lm_head.weight"):
        weights[name] = torch.zeros(157184, 64)
    save_file(weights, folder / "model.safetensors")
    model = load_model(folder)
    assert model.mask_id == 156895 and model.eos_ids == (156892, 156900)


@pytest.mark.parametrize(
    ("name", "fields", "mask"),
    [
        # LLaDA-1.5 and the merged weights of dParallel and d3LLM: LLaDA's class, fields and names.
        ("LLaDA-1.5", {"model_type": "llada", "architectures": ["LLaDAModelLM"]}, "model.transformer.wte.weight"),
        ("dParallel-LLaDA-8B-instruct", {"model_type": "llada"}, "model.transformer.blocks.0.ff_out.weight"),
        ("d3LLM_LLaDA", {"model_type": "llada"}, "model.transformer.ff_out.weight"),
        # DiffuCoder, Dream-Coder and the Dream weights of dParallel and d3LLM: Dream's.
        (
            "DiffuCoder-7B-cpGRPO",
            {"model_type": "Dream", "architectures": ["DreamModel"]},
            "model.embed_tokens.weight",
        ),
        ("Dream-Coder-v0-Instruct-7B", {"model_type": "Dream"}, "model.layers.0.self_attn.k_proj.bias"),
        ("dParallel_Dream_7B_Instruct", {"model_type": "Dream"}, "lm_head.weight"),
    ],
)
def test_checkpoints_of_the_same_names_load(tmp_path: Path, name: str, fields: dict, mask: str) -> None:
    """A tiny checkpoint of each name set, as its publisher stores it: config fields, tensor names, no remote code."""
    source = tiny("llada" if fields["model_type"] == "llada" else "dream").module
    source.save_pretrained(tmp_path / name)
    path = tmp_path / name / "config.json"
    config = json.loads(path.read_text()) | fields | {"auto_map": {"AutoModel": "modeling_other.OtherModel"}}
    path.write_text(json.dumps(config))
    model = load_model(tmp_path / name)
    assert mask in load_file(tmp_path / name / "model.safetensors")
    assert type(model.module) is type(source) and model.attention_block is None
    ids = torch.arange(6)
    torch.testing.assert_close(said(model, ids), said(NativeModel(source, mask_id=model.mask_id), ids))


def test_the_table_of_models_names_families_that_are() -> None:
    for line in LISTED:
        assert all(name in FAMILIES for name in line.family.split(", ") if name)
        assert bool(line.family) != (line.verified == "refused") and bool(line.why) == (line.verified == "refused")
        assert line.verified in VERIFIED
    assert {name for line in LISTED for name in line.family.split(", ") if name} == set(FAMILIES)

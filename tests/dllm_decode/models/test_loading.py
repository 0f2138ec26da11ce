"""load_model: round trips, and one sentence for every way it can fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from dllm_decode.errors import ConfigError, LoadError
from dllm_decode.models import LLaDA, load_model, loading
from tests.dllm_decode.models.checkpoints import change_json, module, write_json


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small LLaDA checkpoint without a tokenizer."""
    module("llada").save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("family", ["llada", "Dream"])
@pytest.mark.parametrize("sharded", [False, True])
def test_save_and_load_round_trip(tmp_path: Path, family: str, sharded: bool) -> None:
    original = module(family.lower()).eval()
    original.save_pretrained(tmp_path, max_shard_size="10KB" if sharded else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == sharded
    names = {name for file in tmp_path.glob("*.safetensors") for name in load_file(file)}
    stem = "model.transformer.blocks.1.attn_out" if family == "llada" else "model.layers.1.self_attn.o_proj"
    assert names == original.state_dict().keys() and f"{stem}.weight" in names
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [
        "LLaDAModelLM" if family == "llada" else "DreamModel"
    ]
    ids = torch.arange(12).view(2, 6)
    loaded = load_model(tmp_path, device="cpu")
    assert torch.equal(loaded.module(ids).logits, original(ids).logits)
    auto = AutoModel.from_pretrained(tmp_path)
    assert type(auto) is type(original) and torch.equal(auto.eval()(ids).logits, original(ids).logits)
    assert AutoConfig.from_pretrained(tmp_path).model_type == family


def test_official_config_fields_load_without_remote_code(checkpoint: Path) -> None:
    auto_map = {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM"}
    change_json(
        checkpoint / "config.json", auto_map=auto_map, init_device="meta", flash_attention=False, use_cache=False
    )
    assert type(AutoModel.from_pretrained(checkpoint)) is LLaDA
    assert load_model(checkpoint).mask_id == 258


def test_special_ids_and_facts(tmp_path: Path) -> None:
    module("llada").save_pretrained(tmp_path / "llada")
    model = load_model(tmp_path / "llada")
    assert (model.mask_id, model.eos_ids, model.pad_id, model.shift) == (258, (257,), 257, 0)
    assert (model.vocab_size, model.max_length, model.tokenizer) == (280, 4096, None)
    assert model.supports_cache and model.supports_branches and not model.module.training
    module("dream").save_pretrained(tmp_path / "dream")
    write_json(tmp_path / "dream" / "generation_config.json", {"eos_token_id": [261, 263], "mask_token_id": None})
    model = load_model(tmp_path / "dream")
    assert (model.mask_id, model.eos_ids, model.pad_id, model.shift) == (265, (261, 263), 261, 1)
    change_json(tmp_path / "dream" / "config.json", mask_token_id=None)
    write_json(tmp_path / "dream" / "generation_config.json", {"mask_token_id": 264})
    assert load_model(tmp_path / "dream").mask_id == 264


def test_dtype_and_device(tmp_path: Path) -> None:
    module("llada").bfloat16().save_pretrained(tmp_path)
    assert load_model(tmp_path, device="cpu").dtype == torch.float32
    assert load_model(tmp_path, device="cpu", dtype="bfloat16").dtype == torch.bfloat16
    model = load_model(tmp_path, device=torch.device("cpu"), dtype=torch.float16, attention="reference")
    assert model.dtype == torch.float16 and model.module.attention == "reference"
    assert model.new_cache(1, 2).dtype == torch.float16


def test_bundled_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "BUNDLED", tmp_path)
    with pytest.raises(LoadError, match="bundled model is missing from this installation"):
        load_model("tiny")
    module("llada").save_pretrained(tmp_path / "tiny")
    assert load_model("tiny").name == "tiny"
    with pytest.raises(LoadError, match="or a bundled model: tiny, tiny-long, tiny-block"):
        load_model("tiny/block/no")


def test_hub_id_is_fetched_then_read_locally(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[str, list[str]]] = []

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(checkpoint)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert load_model("owner/some-model.v1").name == "owner/some-model.v1"
    assert asked == [("owner/some-model.v1", loading.HUB_FILES)] and not any("py" in p for p in asked[0][1])
    load_model(checkpoint)
    with pytest.raises(LoadError, match="no folder"):
        load_model("./owner/some-model")
    assert len(asked) == 1, "only a hub id may reach for the network"

    def offline(name: str, allow_patterns: list[str]) -> str:
        raise ConnectionError("Name or service not known\nand more lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        LoadError,
        match=r"^a/b is not a local folder and could not be fetched from the hub \(ConnectionError: Name or service "
        r"not known\); check the name and the connection, or give a local folder.$",
    ):
        load_model("a/b")


def drop_tensor(folder: Path, rename: str | None = None) -> None:
    state = load_file(folder / "model.safetensors")
    tensor = state.pop("model.transformer.ln_f.weight")
    if rename:
        state |= {rename: tensor, "model.transformer.ln_f.weight": tensor.clone()}
    save_file(state, folder / "model.safetensors")


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lose_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    module("llada").save_pretrained(folder, max_shard_size="10KB")
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def as_int8(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({name: tensor.to(torch.int8) for name, tensor in state.items()}, folder / "model.safetensors")


def foreign_length(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((loading.BUNDLED / "tiny" / name).read_bytes())
    change_json(folder / "tokenizer_config.json", model_max_length=[None])


BREAKAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json; give the folder that holds it"),
    "bad json": (lambda f: (f / "config.json").write_text("{"), "cannot read .*config.json .*; fetch it again"),
    "json list": (lambda f: (f / "config.json").write_text("[]"), "config.json holds no JSON object"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "lacks model.safetensors; fetch the safetensors"),
    "lost shard": (lose_shard, r"lacks model-00002-of-\d+.safetensors; fetch the safetensors weights completely"),
    "index without metadata or map": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": 3}}'),
        "index.json names no files in its weight_map; fetch it again",
    ),
    "empty index": (
        lambda f: (f / "model.safetensors.index.json").write_text("{}"),
        "index.json has no weight_map; fetch it again",
    ),
    "truncated": (truncate, "model.safetensors is truncated or not a safetensors file .*; fetch it again"),
    "not safetensors": (
        lambda f: (f / "model.safetensors").write_bytes(b"x" * 64),
        "is truncated or not a safetensors",
    ),
    "missing key": (drop_tensor, "lack model.transformer.ln_f.weight, which the model of its config.json has"),
    "unexpected key": (lambda f: drop_tensor(f, "adapter.weight"), "hold adapter.weight, unknown to the model"),
    "more layers": (
        lambda f: change_json(f / "config.json", n_layers=3),
        "lack model.transformer.blocks.2.attn_norm.weight and 8 more, which",
    ),
    "wrong shape": (
        lambda f: change_json(f / "config.json", mlp_hidden_size=32),
        r"blocks.0.ff_proj.weight has shape \(24, 16\), but by config.json it must be \(32, 16\)",
    ),
    "no mask": (
        lambda f: change_json(f / "config.json", mask_token_id=None),
        "config.json names no mask_token_id; add the id of the model's mask token",
    ),
    "mask outside": (
        lambda f: change_json(f / "config.json", mask_token_id=280),
        r"says mask_token_id=280, but the vocabulary has ids 0..279; correct it",
    ),
    "other model": (
        lambda f: change_json(f / "config.json", model_type="qwen2"),
        "holds a model of type 'qwen2'; supported types are llada, Dream",
    ),
    "no model type": (lambda f: change_json(f / "config.json", model_type=None), "holds a model of type None"),
    "moe": (
        lambda f: change_json(f / "config.json", num_experts=64),
        "model_type is 'llada' but its architecture is a mixture of experts, a different model",
    ),
    "moe of other sizes": (
        lambda f: change_json(f / "config.json", architectures=["LLaDAMoEModelLM"], num_experts=64),
        "llada config has hidden_size=None; it must be a positive integer",
    ),
    "architecture": (
        lambda f: change_json(f / "config.json", architectures=["LLaDAOtherLM"]),
        "model_type is 'llada' but its architecture is LLaDAOtherLM, a different model",
    ),
    "flag": (
        lambda f: change_json(f / "config.json", alibi=True),
        "llada config has alibi=True, which is not supported",
    ),
    "quantised": (as_int8, "are stored as I8; supported are F32, BF16, F16, so convert them first"),
    "longest of another kind": (
        lambda f: change_json(f / "config.json", max_sequence_length={"a": 1}),
        "llada config has max_sequence_length={'a': 1}; it must be a positive integer",
    ),
    "ids of another kind": (
        lambda f: change_json(f / "config.json", eos_token_id={"a": 1}),
        "the checkpoint names {'a': 1} as the id of a special token; give whole numbers from 0",
    ),
    "length of another kind": (
        foreign_length,
        "cannot read the tokenizer in .*; fetch its files",
    ),
    "bad tokenizer": (
        lambda f: (f / "tokenizer.json").write_text("{}"),
        "cannot read the tokenizer in .*; fetch its files",
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_broken_checkpoint_ends_in_one_sentence(checkpoint: Path, name: str) -> None:
    breakage, message = BREAKAGES[name]
    breakage(checkpoint)
    with pytest.raises((LoadError, ConfigError), match=message) as caught:
        load_model(checkpoint)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int3"}, "unknown dtype 'int3'; use float32, bfloat16, float16 or None for the checkpoint's own"),
        ({"dtype": torch.int64}, "unknown dtype torch.int64"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here .*; use cpu, or cuda where there is one"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
        ({"attention": "fast"}, "unknown attention backend 'fast'; use auto, .*sdpa, reference"),
    ],
)
def test_wrong_arguments_end_in_one_sentence(checkpoint: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadError, match=message):
        load_model(checkpoint, **arguments)


def test_wrong_places_end_in_one_sentence(checkpoint: Path) -> None:
    with pytest.raises(LoadError, match="there is no folder nowhere; give a checkpoint folder, a hub id such as"):
        load_model("nowhere")
    with pytest.raises(LoadError, match="config.json is a file; give the checkpoint's folder"):
        load_model(checkpoint / "config.json")


def test_old_rotary_buffers_in_a_checkpoint_are_ignored(checkpoint: Path) -> None:
    state = load_file(checkpoint / "model.safetensors")
    state["model.transformer.blocks.0.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(state, checkpoint / "model.safetensors")
    load_model(checkpoint)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("architectures", [[]], "must be a list of names"),
        ("architectures", 5, "must be a list of names"),
        ("eos_token_id", [None], "names None as the id of a special token"),
        ("eos_token_id", 280, r"eos_token_id is \(280,\); give ids from 0 to 279"),
        ("pad_token_id", 10**23, "pad_token_id is .*; give ids from 0 to 279"),
        ("rms_norm_eps", {"a": 1}, "rms_norm_eps"),
        ("rope_theta", "x", "cannot read .*could not convert string to float"),
        ("rope_theta", -1.0, "must be a positive number"),
        ("rms_norm_eps", 10**23, "must be a positive number"),
    ],
)
def test_fields_of_another_kind_are_one_sentence(tmp_path: Path, field: str, value: object, said: str) -> None:
    module("llada").save_pretrained(tmp_path)
    change_json(tmp_path / "config.json", **{field: value})
    with pytest.raises((LoadError, ConfigError), match=said):
        load_model(tmp_path)

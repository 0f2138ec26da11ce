"""Weights go from file to device one tensor at a time, in the dtype asked for."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from dllm_decode.models import load_model, weights
from dllm_decode.models.loading import inspect_config
from tests.dllm_decode.models.checkpoints import module
from tests.references.golden_data import golden_path

BF16 = torch.bfloat16


class Host:
    """Stands for a device that is not the host: counts the tensors that are on the host at one time."""

    def __init__(self) -> None:
        self.now, self.most, self.asked = 0, 0, list[str]()

    @contextmanager
    def open(self, path: Path, framework: str, device: str = "cpu") -> Iterator[Any]:
        self.asked.append(device)
        with safe_open(path, framework=framework) as file:
            self.file = file
            yield self

    def keys(self) -> list[str]:
        return list(self.file.keys())

    def get_tensor(self, name: str) -> Tensor:
        tensor: Tensor = self.file.get_tensor(name).clone()
        self.now += 1
        self.most = max(self.most, self.now)
        weakref.finalize(tensor, self.drop)
        return tensor

    def drop(self) -> None:
        self.now -= 1


@pytest.mark.parametrize("shard", ["1GB", "10KB"])
def test_one_tensor_at_a_time_on_the_device_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: str
) -> None:
    source = module("dream")
    source.save_pretrained(tmp_path, max_shard_size=shard)
    host, seen = Host(), list[str]()
    monkeypatch.setattr(weights, "safe_open", host.open)

    def finish(name: str, layer: nn.Module) -> None:
        assert not any(p.is_meta for p in layer.parameters(recurse=False))
        seen.append(name)

    gc.disable()  # what is counted is let go by its last reference, not by a collection
    try:
        config, _ = inspect_config(tmp_path)
        read = weights.read_weights(tmp_path, type(source), config, BF16, torch.device("cpu"), finish)
    finally:
        gc.enable()
    assert host.asked == ["cpu"] * len(list(tmp_path.glob("*.safetensors"))) and host.most == 1
    holders = {name.rpartition(".")[0] for name in source.state_dict()}
    assert sorted(seen) == sorted(holders), "each layer once, when it is whole"
    assert {name: t.dtype for name, t in read.state_dict().items()} == dict.fromkeys(source.state_dict(), BF16)
    assert all(torch.equal(t, source.state_dict()[name].bfloat16()) for name, t in read.state_dict().items())
    assert not read.training


def test_the_device_reaches_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, host = module("llada"), Host()
    source.save_pretrained(tmp_path)
    monkeypatch.setattr(weights, "safe_open", host.open)
    config, _ = inspect_config(tmp_path)
    weights.read_weights(tmp_path, type(source), config, BF16, torch.device("cuda:1"))
    assert host.asked == ["cuda:1"]


@pytest.mark.golden
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stacked_experts_are_what_transformers_reads(dtype: str) -> None:
    source = golden_path("block_models/llada2")
    mine = load_model(source, dtype=dtype).module
    theirs = type(mine).from_pretrained(source, config=mine.config, dtype=getattr(torch, dtype)).state_dict()
    state = mine.state_dict()
    assert {n: t.dtype for n, t in state.items()} == {n: t.dtype for n, t in theirs.items()}
    assert all(torch.equal(state[name], theirs[name]) for name in theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("quantize", [None, "int8"])
def test_a_gpu_s_weights_never_fill_the_host(tmp_path: Path, quantize: str | None) -> None:
    if quantize:
        pytest.importorskip("torchao", reason="torchao is not installed")
    from scripts.make_checkpoint import make_checkpoint

    total = make_checkpoint("dream-7b", tmp_path / "some", 2, 0)
    load_model("tiny", device="cuda")  # the context's own memory
    before = _anonymous()
    model = load_model(tmp_path / "some", device="cuda", quantize=quantize)
    assert {t.device.type for t in model.module.state_dict().values()} == {"cuda"}
    assert _anonymous() - before < total / 4


def _anonymous() -> int:
    """Bytes of this process that are no mapped files."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])

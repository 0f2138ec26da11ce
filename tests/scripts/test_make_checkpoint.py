"""Random checkpoints of published shapes: sizes, names and shards, and what loading one takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dllm_decode import DiffusionSampler, load_model
from dllm_decode.errors import DllmError
from scripts.make_checkpoint import SHAPES, config_of, make_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("shape", "scale"), [("llada-8b", 32), ("dream-7b", 28), ("sdar-1.7b", 16)])
def test_what_is_written_loads_and_decodes(tmp_path: Path, shape: str, scale: int) -> None:
    total = make_checkpoint(shape, tmp_path / "m", scale)
    shards = sorted(path.name for path in (tmp_path / "m").glob("*.safetensors"))
    assert 1 <= len(shards) <= SHAPES[shape]["shards"]
    assert total <= sum(path.stat().st_size for path in (tmp_path / "m").glob("*.safetensors"))
    model = load_model(tmp_path / "m")
    result = DiffusionSampler(model, "topk:k=4").generate([[1, 2, 3]], max_new_tokens=8)
    assert len(result.sequences[0]) >= 8
    with pytest.raises(DllmError, match="is not empty"):
        make_checkpoint(shape, tmp_path / "m", scale)


def test_the_published_sizes(tmp_path: Path) -> None:
    """By the published files: 8 015 581 184 and 7 615 616 512 numbers."""
    import math

    import torch

    from dllm_decode.models.families import FAMILIES

    for shape, numbers in (("llada-8b", 8_015_581_184), ("dream-7b", 7_615_616_512)):
        with torch.device("meta"):
            state = FAMILIES[SHAPES[shape]["family"]](config_of(shape)).state_dict()
        assert sum(math.prod(tensor.shape) for tensor in state.values()) == numbers
    with pytest.raises(DllmError, match="there is no shape 'gpt'; use one of llada-8b"):
        config_of("gpt")


def test_a_mixture_is_stored_expert_by_expert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"num_experts": 16, "moe_intermediate_size": 32, "num_hidden_layers": 2, "hidden_size": 64}
    small |= {"intermediate_size": 64, "vocab_size": 200, "head_dim": 16, "num_attention_heads": 4}
    small |= {"mask_token_id": 199, "eos_token_id": 198}
    monkeypatch.setitem(SHAPES, "llada2-mini", {**SHAPES["llada2-mini"], **small})
    make_checkpoint("llada2-mini", tmp_path / "m")
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    assert any(".experts.15.down_proj" in name for name in index["weight_map"])
    assert load_model(tmp_path / "m").attention_block == 32


@pytest.mark.slow
def test_loading_takes_the_weights_and_little_more(tmp_path: Path) -> None:
    """Memory of the process's own (mapped files are the system's to take back) stays under weights + 128 MiB."""
    total = make_checkpoint("llada-8b", tmp_path / "m", 4)
    assert total > 2**28
    code = (
        "import sys, threading, time\nfrom pathlib import Path\nfrom dllm_decode import load_model\n"
        "def own():\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith('RssAnon'))\n"
        "load_model('tiny')\nbefore, peak = own(), [0]\n"  # whatever is imported on the way
        "def watch():\n    while True:\n        peak[0] = max(peak[0], own())\n        time.sleep(0.001)\n"
        "threading.Thread(target=watch, daemon=True).start()\n"
        "model = load_model(sys.argv[1], dtype='bfloat16')\nprint(max(peak[0], own()) - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) < total + 2**27, f"{int(done.stdout) / total:.2f} times the weights"

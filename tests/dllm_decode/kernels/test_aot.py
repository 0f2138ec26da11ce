"""Ahead-of-time compilation: without a GPU the kernels still become machine code, and none of them spills."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")


def aot(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env["TRITON_CACHE_DIR"] = str(folder / "cache")
    command = [sys.executable, "-m", "dllm_decode.kernels.aot", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_a_block_step_compiles_for_both_architectures(tmp_path: Path) -> None:
    done = aot(tmp_path, "--only", "block step, LLaDA", "--only", "scores, greedy", "--ptx", str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^(\w.*?) +sm_(\d+) +(\d+) +(\d+) +(\d+) +(\d+)$", done.stdout, re.MULTILINE)
    assert [(name, int(arch)) for name, arch, *_ in lines] == [
        ("block step, LLaDA-8B", 90), ("block step, LLaDA-8B", 80), ("scores, greedy", 90), ("scores, greedy", 80)
    ]  # fmt: skip
    for name, _, registers, spilled, shared, products in lines:
        assert 0 < int(registers) <= 255 and int(spilled) == 0
        assert int(shared) <= 163 * 1024, "what an A100 gives one program"
        assert (int(products) > 0) == name.startswith("block"), "matrix products run on tensor cores"
    for path in tmp_path.glob("*.ptx"):  # keys, values and logits come asynchronously, not number by number
        assert "cp.async" in path.read_text(encoding="utf-8"), path.name
    assert len(list(tmp_path.glob("*.ptx"))) == 4


def test_wrong_requests_end_in_a_sentence(tmp_path: Path) -> None:
    done = aot(tmp_path, "--only", "nothing")
    assert done.returncode == 2 and "no kernel starts with ['nothing']; there are: block step, LLaDA-8B" in done.stderr

"""Compile the kernels ahead of time, without a GPU, and report what the assembler says of them.

    python -m dllm_decode.kernels.aot                      # every kernel for sm_90 and sm_80
    python -m dllm_decode.kernels.aot --arch 90 --only "block step"

Registers and spills come from the ptxas that Triton brings along.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dllm_decode.kernels import interpreting
from dllm_decode.kernels.block_attention import attend_block, merge_parts
from dllm_decode.kernels.elementwise import silu_times, sum_and_norm
from dllm_decode.kernels.rotary import rotate_and_store
from dllm_decode.kernels.score import RUN, score_row

ARCHITECTURES = (90, 80)


@dataclass(frozen=True)
class Variant:
    """A kernel with fixed constants.

    Attributes:
        name: what it is for. ``kernel``: the jitted function. ``constants``: its compile-time arguments.
        types: Triton types of its other arguments; ``None`` = a 32-bit whole number.
        warps, stages: per program, and of the software pipeline.
    """

    name: str
    kernel: Any
    constants: dict[str, Any]
    types: dict[str, str]
    warps: int = 4
    stages: int = 3


@dataclass(frozen=True)
class Report:
    """What came out: bytes of shared memory, registers per thread, bytes spilled, tensor core instructions."""

    name: str
    arch: int
    shared: int
    registers: int
    spilled: int
    products: int
    ptx: str = field(repr=False)


def variants(dtype: str = "bf16") -> list[Variant]:
    """The kernels of LLaDA-8B's and Dream-7B's steps in one dtype."""
    number = "*" + dtype
    block = {
        **dict.fromkeys(("q", "k", "v", "cache_k", "cache_v", "out"), number),
        **dict.fromkeys(("positions", "queries", "rows", "branch"), "*i64"),
        **{"part_out": "*fp32", "part_log": "*fp32", "lengths": "*i32", "brings": "*u8", "scale": "fp32"},
        **{"cos": "*fp32", "sin": "*fp32", "cache_row": "i64"},
    }
    turned_low = {**block, "cos": number, "sin": number}  # Dream rotates in the model's dtype
    llada = {
        **{"heads": 32, "group": 1, "size": 128, "names": 1, "splits": 4, "cached": True, "fresh": True},
        **{"turns": True, "hides": 1, "branched": False, "interpreted": False},
        **{"block_m": 32, "block_n": 64, "block_f": 32, "block_h": 64},
    }
    dream = {**llada, "heads": 28, "group": 7, "block_m": 64}
    ready = {"fresh": False, "turns": False, "hides": 0, "splits": 1, "block_m": 128, "block_f": 64}
    drafts = {"branched": True, "hides": 2, "names": 5, "splits": 1, "block_m": 64}
    rotary = {**block, "cache_row": "i64"}
    turn = {"kv_heads": 32, "heads": 32, "size": 128, "cached": True, "interpreted": False}
    turn |= {"block_q": 32, "block_k": 32, "block_h": 64}
    rows = {
        **dict.fromkeys(("seeds", "steps", "cells", "branches", "tokens"), "*i64"),
        **dict.fromkeys(("confidences", "entropies", "margins", "raw_margins"), "*fp32"),
        **{"logits": number, "scale": "fp32", "heat": "fp32"},
    }
    parts = {"part_out": "*fp32", "part_log": "*fp32", "out": number}
    norm = {**dict.fromkeys(("x", "delta", "weight", "total_out", "norm_out"), number), "eps": "fp32"}
    gate = dict.fromkeys(("gate", "up", "out"), number)
    return [
        Variant("block step, LLaDA-8B", attend_block, llada, block),
        Variant("block step, Dream-7B", attend_block, dream, turned_low, warps=8),
        Variant("drafts, LLaDA-8B", attend_block, {**llada, **drafts}, block, warps=8),
        Variant("wide forward, LLaDA-8B", attend_block, {**llada, **ready}, block, warps=8),
        Variant("merge of 4 parts", merge_parts, _merge(4), parts),
        Variant("rotate and store, LLaDA-8B", rotate_and_store, turn, rotary),
        Variant("scores, greedy", score_row, {"noisy": False, "extras": False, "run": RUN}, rows, warps=8),
        Variant("scores, noise and extras", score_row, {"noisy": True, "extras": True, "run": RUN}, rows, warps=8),
        Variant("residual and norm, 4096", sum_and_norm, _norm(4096), norm, warps=8),
        Variant("gate", silu_times, {"interpreted": False, "block": 1024}, gate),
    ]


def _merge(splits: int) -> dict[str, Any]:
    return {"size": 128, "splits": splits, "interpreted": False, "block": 16, "block_d": 128}


def _norm(size: int) -> dict[str, Any]:
    return {"size": size, "adds": True, "interpreted": False, "block": size}


def compile_variant(variant: Variant, arch: int) -> Report:
    """Compile for a compute capability such as 90; needs no GPU."""
    names = variant.kernel.arg_names
    signature = {n: "constexpr" if n in variant.constants else variant.types.get(n, "i32") for n in names}
    # As at run time: torch's memory, the strides of whole heads and both vocabularies are multiples of 16.
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if _aligned(n, signature[n])}
    constants = {(names.index(n),): value for n, value in variant.constants.items()}
    compiled = triton.compile(
        ASTSource(variant.kernel, signature, constexprs=constants, attrs=aligned),
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": variant.warps, "num_stages": variant.stages, "enable_fp_fusion": True},
    )
    ptx = compiled.asm["ptx"]
    registers, spilled = assemble(ptx)
    products = len(re.findall(r"\b(?:mma\.sync|wgmma\.mma_async)", ptx))
    return Report(variant.name, arch, compiled.metadata.shared, registers, spilled, products, ptx)


def _aligned(name: str, kind: str) -> bool:
    strides = (
        "q_token",
        "k_token",
        "v_token",
        "table_row",
        "cache_row",
        "cache_head",
        "cache_slot",
        "size",
        "stride",
        "vocabulary",
    )
    return kind.startswith("*") or (name in strides and kind != "constexpr")


def assemble(ptx: str) -> tuple[int, int]:
    """Registers per thread and bytes spilled (stores and loads), by whichever ptxas of Triton's takes this PTX."""
    target = re.search(r"^\.target\s+(\w+)", ptx, re.MULTILINE)
    assert target is not None
    folder, said = Path(triton.__file__).parent / "backends" / "nvidia" / "bin", "no ptxas found"
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "kernel.ptx"
        source.write_text(ptx, encoding="utf-8")
        for assembler in sorted(folder.glob("ptxas*")):
            command = [str(assembler), "-v", "--gpu-name", target[1], str(source), "-o", str(source.with_suffix(".o"))]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            said = result.stderr
            if result.returncode == 0:
                used, spills = re.search(r"Used (\d+) registers", said), re.findall(r"(\d+) bytes spill", said)
                return int(used[1]) if used is not None else 0, sum(map(int, spills))
    raise RuntimeError(f"no ptxas that Triton brings along assembles this kernel: {said.strip()[:300]}")


def main(arguments: list[str] | None = None) -> int:
    """Compile and print one line per kernel and architecture; 1 if any of them spills."""
    parser = argparse.ArgumentParser(description="Compile the Triton kernels without a GPU.")
    parser.add_argument("--arch", type=int, action="append", help="compute capability, such as 90 (repeatable)")
    parser.add_argument("--only", action="append", help="kernels whose name starts so (repeatable)")
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16")
    parser.add_argument("--ptx", type=Path, help="folder for the PTX")
    options = parser.parse_args(arguments)
    if interpreting():
        parser.error("TRITON_INTERPRET is set, so there are no kernels to compile; unset it.")
    chosen = [v for v in variants(options.dtype) if any(v.name.startswith(o) for o in options.only or [""])]
    if not chosen:
        parser.error(f"no kernel starts with {options.only}; there are: {', '.join(v.name for v in variants())}.")
    print(f"{'kernel':28} {'arch':>6} {'registers':>9} {'spilled':>8} {'shared':>8} {'mma':>5}")
    spilled = 0
    for variant in chosen:
        for arch in options.arch or ARCHITECTURES:
            r = compile_variant(variant, arch)
            spilled += r.spilled
            arch_name = f"sm_{arch}"
            print(f"{r.name:28} {arch_name:>6} {r.registers:9} {r.spilled:8} {r.shared:8} {r.products:5}", flush=True)
            if options.ptx is not None:
                options.ptx.mkdir(parents=True, exist_ok=True)
                stem = re.sub(r"\W+", "_", r.name.lower())
                (options.ptx / f"{stem}_sm{arch}.ptx").write_text(r.ptx, encoding="utf-8")
    print(f"triton {triton.__version__}, {options.dtype}")
    return 1 if spilled else 0


if __name__ == "__main__":
    sys.exit(main())

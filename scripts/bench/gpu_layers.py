"""One layer's fused parts on a GPU: our Triton kernels next to torch and torch.compile, every attention back end.

    python -m scripts.bench.gpu_layers                            # the table
    python -m scripts.bench.gpu_layers --docs docs/performance.md # and into the page
    python -m scripts.bench.gpu_layers --dry-run                  # the same code on the CPU, shrunken

What decides between Triton and torch.compile, and between the back ends of the ladder.  As in a recorded step, many
calls are one CUDA graph, so that the times are the device's and not those of the host's launches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

from dllm_decode import kernels
from dllm_decode.attention import BACKENDS, AttentionCase, Backend
from dllm_decode.engine.capture.recording import CudaRecorder, Recorder
from dllm_decode.engine.cost import Machine, Shape
from dllm_decode.interface.cache import KVCache
from dllm_decode.models import ForwardInput
from dllm_decode.models.layers import rotary_tables
from scripts.bench.gpu import FAMILIES, Plan, plan_for, rates, seconds
from scripts.bench.gpu_page import name_of, versions
from scripts.bench.measure import middle
from scripts.bench.shapes import config_of
from scripts.docs_page import markdown_table, put

#: Bytes of keys and values to go through before the first come again: several times a GPU's level-2 cache.
FLUSHED = 1 << 29
CALLS = 64  #: calls in one graph, at least


@dataclass(frozen=True)
class LayerRow:
    """Milliseconds of one part of one layer, done in one way; ``floor_ms`` is the bytes it must move."""

    what: str
    shape: str
    way: str
    ms: float
    floor_ms: float


def spent(call: Callable[[], object], device: torch.device, many: int, recorder: Recorder | None) -> tuple[float, str]:
    """Milliseconds of one of the ``many`` calls of a replay; of a call that cannot be recorded, and a word on that.

    ``recorder`` is ``None`` where nothing is recorded.
    """
    if recorder is None:
        return middle(seconds(call, device)), ""

    def repeated() -> Tensor:
        for _ in range(many):
            call()
        return torch.empty(0, device=device)

    try:
        replay, _ = recorder.record(repeated)
    except RuntimeError:
        return middle(seconds(call, device)), ", launched one by one"
    return middle(seconds(replay, device)) / many, ""


def recorder_of(plan: Plan) -> Recorder | None:
    """What makes graphs there."""
    return CudaRecorder(plan.device) if plan.device.type == "cuda" else None


def normed(x: Tensor, delta: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """What the kernel replaces, as the model's own lines have it."""
    total = x + delta
    return total, F.rms_norm(total.float(), weight.shape, None, 1e-5).to(x.dtype) * weight


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """Likewise."""
    return F.silu(gate) * up


def elementwise_rows(plan: Plan, machine: Machine, tokens: tuple[int, ...]) -> Iterator[LayerRow]:
    """RMSNorm with residual, and the SiLU gate."""
    for family in FAMILIES:
        shape = Shape.of(config_of(family, plan.dry), plan.dtype.itemsize)
        for many in tokens:
            for what, width, passes in (("residual and norm", shape.width, 4), ("gate", shape.inner, 3)):
                x, y = (torch.randn(many, width, device=plan.device, dtype=plan.dtype) for _ in range(2))
                weight = torch.ones(width, device=plan.device, dtype=plan.dtype)
                plain = partial(normed, x, y, weight) if passes == 4 else partial(gated, x, y)
                ways: dict[str, Callable[[], object]] = {"torch": plain}
                if kernels.unusable(plan.device, plan.dtype) is None:
                    from dllm_decode.kernels import elementwise

                    norm = partial(elementwise.add_norm, x, y, weight, 1e-5)
                    ways["triton"] = norm if passes == 4 else partial(elementwise.gated, x, y)
                if plan.device.type == "cuda":
                    ways["torch.compile"] = partial(torch.compile(plain.func, dynamic=False), *plain.args)
                floor = passes * x.nbytes / machine.bandwidth
                for way, call in ways.items():
                    ms, how = spent(call, plan.device, CALLS, recorder_of(plan))
                    yield LayerRow(f"{family}, {what}", f"{many} x {width}", way + how, ms, 1e3 * floor)


def attention_rows(plan: Plan, machine: Machine) -> Iterator[LayerRow]:
    """A dual block step's attention of one layer, rotation and cache write included, by every back end that can."""
    for family in FAMILIES:
        shape = Shape.of(config_of(family, plan.dry), plan.dtype.itemsize)
        size = shape.width // shape.heads
        for length in plan.lengths:
            for batch in plan.batches:
                held = shape.kv_bytes // shape.layers * batch * length
                # Layer after layer, so that no call finds its keys in the GPU's own cache.
                layers = 1 if plan.dry else max(1, FLUSHED // held)
                cache = KVCache(
                    layers=layers, rows=batch, kv_heads=shape.kv_heads, slots=length, head_dim=size, dtype=plan.dtype,
                    device=plan.device,
                )  # fmt: skip
                case, projections = block_step(plan, shape, batch, length, cache)
                for name, backend in BACKENDS.items():
                    if backend.supports(case, plan.dtype, plan.device) is None:
                        turn = count()
                        call = partial(attend_next, backend, projections, case, turn, layers)
                        ms, how = spent(call, plan.device, max(CALLS, layers), recorder_of(plan))
                        where, floor = f"N={length}, B={batch}", 1e3 * held / machine.bandwidth
                        yield LayerRow(f"{family}, attention", where, name + how, ms, floor)


def block_step(
    plan: Plan, shape: Shape, batch: int, length: int, cache: KVCache
) -> tuple[AttentionCase, tuple[Tensor, ...]]:
    """What a dual step asks of attention, for the last block of each row: case, then q, k, v, cosines and sines."""
    positions = torch.arange(length - plan.block, length, device=plan.device).expand(batch, -1).contiguous()
    full = torch.full((batch,), length, device=plan.device)
    inp = ForwardInput(torch.zeros_like(positions), positions, torch.full_like(full, plan.block), full, cache=cache)
    size = shape.width // shape.heads
    heads = (shape.heads, shape.kv_heads, shape.kv_heads)
    qkv = (torch.randn(batch, plan.block, n, size, device=plan.device, dtype=plan.dtype) for n in heads)
    case = AttentionCase.of(inp, shape.heads, shape.kv_heads, size)
    return case, (*qkv, *rotary_tables(positions, size, 5e5))


def attend_next(
    backend: Backend, projections: tuple[Tensor, ...], case: AttentionCase, turn: Iterator[int], layers: int
) -> None:
    """One layer's attention, over the next layer's cache."""
    backend.mix(*projections, case, next(turn) % layers)  # type: ignore[call-arg, arg-type]


def lines(rows: list[LayerRow]) -> list[str]:
    """A Markdown table."""
    body = [[r.what, r.shape, r.way, f"{r.ms:.4f}", f"{r.floor_ms:.4f}"] for r in rows]
    return markdown_table(("part of a layer", "shape", "way", "ms", "floor ms"), body)


@torch.no_grad()
def main(
    dry_run: Annotated[bool, typer.Option(help="Shrunken shapes on the CPU; the figures mean nothing.")] = False,
    tokens: Annotated[
        list[int] | None, typer.Option(help="Rows of the elementwise parts (32, 256, 1024, 8192).")
    ] = None,
    length: Annotated[list[int] | None, typer.Option(help="N of the attention (default 512, 1024, 2048).")] = None,
    docs: Annotated[Path | None, typer.Option(help="Page to write the table into, between its markers.")] = None,
) -> None:
    """Measure; see the module's own text."""
    plan = plan_for(dry_run, docs)
    plan = replace(plan, lengths=tuple(length or plan.lengths))
    machine = rates(plan)
    where = f"{name_of(plan.device)}, {versions()}, {date.today().isoformat()}."
    many = tuple(tokens or ((2, 8) if dry_run else (32, 256, 1024, 8192)))
    print(*lines([]), sep="\n", flush=True)
    rows: list[LayerRow] = []
    for row in chain(attention_rows(plan, machine), elementwise_rows(plan, machine, many)):
        rows.append(row)
        print(lines([row])[-1], flush=True)
        if docs is not None:
            put(docs, "gpu layers", [where, "", *lines(rows)])


if __name__ == "__main__":
    typer.run(main)

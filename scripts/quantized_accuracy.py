"""What numbers in fewer bits cost the bundled model in accuracy, on the same fresh samples: weights, or the cache.

    python -m scripts.quantized_accuracy -n 40                                     # weights in bf16, int8, fp8, int4
    python -m scripts.quantized_accuracy --cache -n 20 --docs docs/performance.md  # the cache in fp32, int8, fp8

Int4 is computed here over weights rounded to 4 bits in groups of 32 and stored in 8, so that it can be tried on a CPU.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from dllm_decode import DiffusionSampler, GenerationConfig, load_model
from dllm_decode.attention import BACKENDS, AttentionCase
from dllm_decode.attention.backends import Sdpa
from dllm_decode.config import CACHE_DTYPES
from dllm_decode.engine.cost import Shape
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.interface.narrow_cache import narrow, widen
from dllm_decode.lab.metrics import paired, wilson
from dllm_decode.tasks import TASKS, samples, score
from scripts.docs_page import markdown_table, put

KINDS = ("bfloat16", "int8", "fp8", "int4")


class Measured(Sdpa):
    """SDPA that also attends over keys and values as a narrow cache would give them back, and adds up the error.

    Attributes:
        sums: by kind and layer, squares of the errors and of the outputs.
    """

    name = "measured"

    def __init__(self) -> None:
        self.sums: dict[tuple[str, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._layer = 0

    def attend(self, q: Tensor, k: Tensor, v: Tensor, case: AttentionCase, layer: int) -> Tensor:
        """As :meth:`Sdpa.attend`."""
        self._layer = layer
        return super().attend(q, k, v, case, layer)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, case: AttentionCase) -> Tensor:
        """The plain output."""
        out = super().__call__(q, k, v, case)
        real = slice(None) if case.real is None else case.real
        for kind in CACHE_DTYPES:
            near = super().__call__(q, *(widen(*narrow(x, kind), kind) for x in (k, v)), case)
            sums = self.sums[kind, self._layer]
            for at, x in enumerate((near - out, out)):
                sums[at] += float(x.transpose(1, 2)[real].square().sum())
        return out

    def error(self, kind: str, layer: int | None = None) -> float:
        """Root mean square error of the output, relative to the output, of a layer or of all."""
        found = [sums for (name, at), sums in self.sums.items() if name == kind and layer in (None, at)]
        wrong, whole = (sum(column) for column in zip(*found, strict=True))
        return float((wrong / whole) ** 0.5)

    @property
    def layers(self) -> int:
        """How many were seen."""
        return 1 + max(layer for _, layer in self.sums)


def loaded(kind: str) -> DenoisingModel:
    """The bundled model in one of ``KINDS``."""
    if kind != "int4":
        return load_model("tiny", dtype="bfloat16", quantize=None if kind == "bfloat16" else kind)
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_

    model = load_model("tiny", dtype="bfloat16", quantize="int8")  # not joined; the matrices are read again
    plain = load_model("tiny", dtype="bfloat16").module.state_dict()
    head = model.module.get_output_embeddings()
    for name, layer in model.module.named_modules():
        if type(layer) is torch.nn.Linear and layer is not head:
            layer.weight = torch.nn.Parameter(plain[f"{name}.weight"].clone(), requires_grad=False)
            quantize_(layer, IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32)))
    return model


def judged(
    model: DenoisingModel, count: int, seed: int, cache: str = "dual", kept: str | None = None
) -> list[dict[str, Any]]:
    """A record per sample of every task, threshold 0.9."""
    out = []
    for task in TASKS:
        chosen = samples(task, "test", count, seed)
        config = GenerationConfig(max_new_tokens=TASKS[task].max_new_tokens, block_length=16, cache_dtype=kept)
        texts = DiffusionSampler(model, "threshold", cache, config).generate([s.prompt for s in chosen]).texts
        for number, (sample, text) in enumerate(zip(chosen, texts or (), strict=True)):
            right = int(score(sample, text))
            out.append({"task": task, "seed": seed, "sample": number, "correct": right, "text": text})
    return out


def compared(records: list[dict[str, Any]], base: list[dict[str, Any]]) -> list[str]:
    """Accuracy with its Wilson interval, and the paired difference to ``base`` in points."""
    right = sum(record["correct"] for record in records)
    low, high = (100 * x for x in wilson(right, len(records)))
    found = paired(records, base)
    points = "-" if records is base else f"{100 * found['difference']:+.2f}"
    if records is not base and found["difference_low"] is not None:
        points += f" ({100 * found['difference_low']:+.2f} to {100 * found['difference_high']:+.2f})"
    return [f"{100 * right / len(records):.2f} ({low:.2f}-{high:.2f})", points]


def weights_table(count: int, seed: int) -> list[str]:
    """A row per kind of weights."""
    base: list[dict[str, Any]] = []
    body = []
    for kind in KINDS:
        records = judged(loaded(kind), count, seed)
        base = base or records
        body.append([kind, *compared(records, base)])
    return markdown_table(("weights", f"accuracy %, {len(base)} samples", "points to bf16 (95 %)"), body)


def cache_table(count: int, seed: int) -> list[str]:
    """A row per cache and what it is kept in; the plain run also measures the error of each layer's attention."""
    model, body, number = load_model("tiny", dtype="float32"), [], 0
    for cache in ("prefix", "dual"):
        BACKENDS[Measured.name] = measured = Measured()
        model.module.attention = Measured.name
        base = judged(model, count, seed, cache)
        model.module.attention = "auto"
        number = len(base)
        for kept in (None, *CACHE_DTYPES):
            records = base if kept is None else judged(model, count, seed, cache, kept)
            held = Shape.of(model.module.config, 4, kept).kv_bytes
            error, alike = "-", "-"
            if kept is not None:
                worst = max(measured.error(kept, layer) for layer in range(measured.layers))
                error = f"{100 * measured.error(kept):.2f} ({100 * worst:.2f})"
                same = sum(a["text"] == b["text"] for a, b in zip(records, base, strict=True))
                alike = f"{100 * same / number:.1f}"
            body.append([cache, kept or "float32", str(held), error, alike, *compared(records, base)])
    head = ("cache", "kept in", "bytes per slot", "error of attention, % (worst layer)", "same text %")
    return markdown_table((*head, f"accuracy %, {number} samples", "points to float32 (95 %)"), body)


def main(
    count: Annotated[int, typer.Option("--samples", "-n", min=1, help="Per task.")] = 40,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 7,
    cache: Annotated[bool, typer.Option("--cache", help="The cache in fewer bits, not the weights.")] = False,
    docs: Annotated[Path | None, typer.Option(help="With --cache: also write the table to this page.")] = None,
) -> None:
    """Print a row per kind: accuracy with its Wilson interval, the paired difference to the plain one in points."""
    torch.set_num_threads(1)
    lines = cache_table(count, seed) if cache else weights_table(count, seed)
    print(*lines, sep="\n")
    if cache and docs is not None:
        put(docs, "narrow", lines)


if __name__ == "__main__":
    typer.run(main)

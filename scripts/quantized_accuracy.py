"""What quantised weights cost the bundled model in accuracy: the same fresh samples in bf16, int8, fp8 and int4.

    python -m scripts.quantized_accuracy -n 40

Int4 is computed here over weights rounded to 4 bits in groups of 32 and stored in 8, so that it can be tried on a CPU.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
import typer

from dllm_decode import DiffusionSampler, GenerationConfig, load_model
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.lab.metrics import paired, wilson
from dllm_decode.tasks import TASKS, samples, score
from scripts.docs_page import markdown_table

KINDS = ("bfloat16", "int8", "fp8", "int4")


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


def judged(model: DenoisingModel, count: int, seed: int) -> list[dict[str, Any]]:
    """A record per sample of every task, threshold 0.9, dual cache."""
    out = []
    for task in TASKS:
        chosen = samples(task, "test", count, seed)
        config = GenerationConfig(max_new_tokens=TASKS[task].max_new_tokens, block_length=16)
        texts = DiffusionSampler(model, "threshold", "dual", config).generate([s.prompt for s in chosen]).texts
        for number, (sample, text) in enumerate(zip(chosen, texts or (), strict=True)):
            right = int(score(sample, text))
            out.append({"task": task, "seed": seed, "sample": number, "correct": right})
    return out


def main(
    count: Annotated[int, typer.Option("--samples", "-n", min=1, help="Per task.")] = 40,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 7,
) -> None:
    """Print a row per kind: accuracy with its Wilson interval, and the paired difference to bf16 in points."""
    torch.set_num_threads(1)
    base: list[dict[str, Any]] = []
    body = []
    for kind in KINDS:
        records = judged(loaded(kind), count, seed)
        base = base or records
        right = sum(record["correct"] for record in records)
        low, high = (100 * x for x in wilson(right, len(records)))
        found = paired(records, base)
        points = "-" if records is base else f"{100 * found['difference']:+.2f}"
        if records is not base and found["difference_low"] is not None:
            points += f" ({100 * found['difference_low']:+.2f} to {100 * found['difference_high']:+.2f})"
        body.append([kind, f"{100 * right / len(records):.2f} ({low:.2f}-{high:.2f})", points])
    print(*markdown_table(("weights", f"accuracy %, {len(base)} samples", "points to bf16 (95 %)"), body), sep="\n")


if __name__ == "__main__":
    typer.run(main)

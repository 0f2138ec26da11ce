"""The table of a bundled model's card: accuracy of four ways to decode, 200 problems per task.

python -m scripts.tiny.card tiny-block --cache block --block 8     # prints Markdown; a few minutes
"""

from __future__ import annotations

from typing import Annotated

import typer
from tqdm import tqdm

from dllm_decode.lab.evaluate import EvaluationReport, evaluate
from dllm_decode.models import load_model
from dllm_decode.tasks import TASKS
from scripts.docs_page import markdown_table

POLICIES = {"k = 1": "topk:k=1", "fixed k = 4": "topk:k=4", "threshold 0.9": "threshold"}


def table(reports: dict[str, EvaluationReport]) -> list[str]:
    """A row per task and one of means; accuracies in per cent, costs of the last policy."""
    head = ["task", "k = 1", "its 95 % interval", *list(reports)[1:], "forwards", "tokens per forward"]
    *_, last = reports.values()
    first = reports["k = 1"]
    body = []
    for task, figures in first.tasks.items():
        low, high = figures["interval"]
        right = [f"{100 * report.tasks[task]['accuracy']:.1f}" for report in reports.values()]
        cost = f"{last.tasks[task]['nfe']:.1f}", f"{last.tasks[task]['tpf_content']:.1f}"
        body.append([task, right[0], f"{100 * low:.1f} - {100 * high:.1f}", *right[1:], *cost])
    means = [f"{100 * report.mean('accuracy'):.1f}" for report in reports.values()]
    body.append(
        ["**mean**", f"**{means[0]}**", "", *means[1:], f"{last.mean('nfe'):.1f}", f"{last.mean('tpf_content'):.1f}"]
    )
    return markdown_table(head, body)


def main(
    name: Annotated[str, typer.Argument(help="A bundled model or a folder.")],
    cache: Annotated[str, typer.Option(help="KV cache.")] = "none",
    block: Annotated[int, typer.Option(help="Cells per block.")] = 16,
    samples: Annotated[int, typer.Option(min=1, help="Per task.")] = 200,
) -> None:
    """Print the table."""
    model = load_model(name)
    reports = {
        label: evaluate(model, policy, list(TASKS), samples, cache=cache, block_length=block)
        for label, policy in tqdm(POLICIES.items(), disable=None)
    }
    print(*table(reports), sep="\n")


if __name__ == "__main__":
    typer.run(main)

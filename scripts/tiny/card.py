"""The table of a bundled model's card: accuracy of three ways to decode over some caches, 200 problems per task.

    python -m scripts.tiny.card tiny --tasks all,long --cache none --cache dual    # prints Markdown
    python -m scripts.tiny.card tiny-block --cache block --block 8

With ``--keep`` every way is measured once and kept there; ``--only`` measures some of them, so that several processes,
or another machine, share the work.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from dllm_decode.files import write_whole
from dllm_decode.lab.evaluate import evaluate
from dllm_decode.models import load_model
from scripts.docs_page import markdown_table

POLICIES = {
    "k1": ("k = 1", "topk:k=1"),
    "k4": ("fixed k = 4", "topk:k=4"),
    "threshold": ("threshold 0.9", "threshold"),
}
Figures = dict[str, dict[str, Any]]


def table(found: dict[tuple[str, str], Figures]) -> list[str]:
    """A row per task and one of means, by (policy, cache); accuracies in per cent, costs of the threshold's first."""
    head = ["task"]
    for policy, cache in found:
        head.append(POLICIES[policy][0] + ("" if cache == "none" else f", {cache} cache"))
        head += ["its 95 % interval"] if policy == "k1" else []
    costs = next((way for way in found if way[0] == "threshold"), next(iter(found)))
    head += ["forwards", "tokens per forward"]
    body = []
    for task in found[costs]:
        row = [task]
        for way, tasks in found.items():
            low, high = (100 * end for end in tasks[task]["interval"])
            row.append(f"{100 * tasks[task]['accuracy']:.1f}")
            row += [f"{low:.1f} - {high:.1f}"] if way[0] == "k1" else []
        body.append([*row, f"{found[costs][task]['nfe']:.1f}", f"{found[costs][task]['tpf_content']:.1f}"])
    means = ["**mean**"]
    for way, tasks in found.items():
        share = sum(figures["accuracy"] for figures in tasks.values()) / len(tasks)
        means += [f"**{100 * share:.1f}**"] + ([""] if way[0] == "k1" else [])
    total = [sum(figures[name] for figures in found[costs].values()) for name in ("nfe", "tpf_content")]
    return markdown_table(head, [*body, [*means, *(f"{x / len(found[costs]):.1f}" for x in total)]])


def main(
    name: Annotated[str, typer.Argument(help="A bundled model or a folder.")],
    tasks: Annotated[str, typer.Option(help="'all', 'long', 'all,long' or names with commas.")] = "all",
    cache: Annotated[list[str], typer.Option(help="KV cache; may be repeated.")] = ["none"],  # noqa: B006
    block: Annotated[int, typer.Option(help="Cells per block.")] = 16,
    samples: Annotated[int, typer.Option(min=1, help="Per task.")] = 200,
    batch: Annotated[int, typer.Option(min=1, help="Rows decoded together.")] = 32,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder of what has been measured of this model.")] = None,
    only: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(POLICIES)}; may be repeated.")] = None,
) -> None:
    """Measure what is not kept yet, and print the table."""
    model = load_model(name, device=device, dtype="float32")  # on every device the same text
    found = {}
    for policy, over in tqdm(list(product(only or POLICIES, cache)), disable=None):
        path = None if keep is None else keep / f"{policy}-{over}-{block}-{tasks}-{samples}.json"
        if path is not None and path.exists():
            found[policy, over] = json.loads(path.read_text(encoding="utf-8"))["tasks"]
            continue
        report = evaluate(model, POLICIES[policy][1], tasks, samples, cache=over, block_length=block, batch_size=batch)
        found[policy, over] = report.tasks
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(report.to_dict(), indent=1) + "\n")
    print(*table(found), sep="\n")


if __name__ == "__main__":
    typer.run(main)

"""The measured table of ``docs/policies.md``: every policy, all tasks of the bundled model, one command.

    python -m scripts.policy_table --samples 200 --processes 2

One comparison (``runs/policies``, resumable), then one Markdown table between the markers of the page.
Nothing here chooses a parameter: they are the papers' values, or the plain ladder k = 1, 2, 4 and d = 2, 4, 8.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dllm_decode.lab.compare import compare
from dllm_decode.lab.setting import EGP
from dllm_decode.lab.summary import ALL
from samplers import parse_policy, spell
from scripts.docs_page import put

#: label in the table -> (policy string, what its paper claims on LLaDA-8B)
POLICIES: dict[str, tuple[str, str]] = {
    "static": ("topk:k=1", "the baseline: one cell per forward"),
    "fixed k=2": ("topk:k=2", "half the forwards; loses accuracy where tokens depend on each other"),
    "fixed k=4": ("topk:k=4", "a quarter of the forwards, larger losses"),
    "Threshold 0.9": ("threshold", "3.25 tokens per forward on GSM8K-5, 79.3 -> 78.5 with prefix cache"),
    "Factor 1": ("factor", "about 1.2-1.3x the threshold's speed (GSM8K 78.1 at 3.90 per forward, f 0.75)"),
    "Frechet 0.25": ("frechet", "1.36x the threshold (GSM8K 77.2 at 4.24 per forward)"),
    "EntropyBound 0.1": ("entropybound", "2-3x at no loss (code and maths, base models)"),
    "EntropyThreshold": ("entropythreshold", "with its distilled LLaDA 8.5x fewer steps, GSM8K 75.7 -> 76.1"),
    "Hierarchy": ("hierarchy", "LLaDA-1.5 GSM8K 83.7 at 4.25 per forward (threshold 83.3 at 3.10)"),
    "Hierarchy remask": ("hierarchy:remask=0.4", "no figures of its own"),
    "PcSampler": ("pcsampler", "GSM8K 82.2 at one cell per forward"),
    "Saber": ("saber", "code: 2.5x faster, +1.9 pass@1"),
    "Credit": ("credit", "up to 5.48x, +0.48 points over eight tasks"),
    "KLASS": ("klass", "GSM8K 75.1 -> 76.5 in 98.6 steps of 256"),
    "LocalLeap": ("localleap", "steps down to 14 % of static at negligible loss"),
    "AdaBlock x Threshold": ("adablock+threshold", "up to +5.3 points at the threshold's speed"),
    "AdaBlock x LocalLeap": ("adablock+localleap", "not in a paper"),
    "CCD": ("ccd", "fixed budget; GSM8K 74.3 -> 75.3"),
    "CCD-DS": ("ccdds", "GSM8K 75.2, 1.31x fewer steps; Trip 2.27x"),
    "Learn2PD": ("learn2pd", "12.2x tokens per second at G = 1024, GSM8K 77.6 -> 77.3"),
    "Learn2PD + EoTP": ("learn2pd+eotp", "22.6x at G = 1024, GSM8K 79.8; 3-5x at G = 256"),
    "SchED x TopK": ("topk:k=1+sched", "2.1x (exp k 4, 7.5 to 2.5), mean score 52.3 -> 53.2"),
    "SchED x Threshold": ("threshold+sched", "not in a paper"),
    "Prophet": ("topk:k=1+prophet", "up to 3.4x fewer steps, GSM8K unchanged"),
    "Wino": ("wino", "6x fewer steps on GSM8K at +2.6 points"),
    "LoPA k=2": ("lopa", "on Dream 3.1 against 2.1 tokens per forward, GSM8K 73.3"),
    "DAWN": ("dawn", "cells that no strong attention links may be decided together"),
    "DAEDAL (from 8)": (
        "threshold+daedal:initial_length=8,window=8",
        "GSM8K 85.8 at a mean length of 363, best fixed 83.8",
    ),
    "FreeDave d=2": ("freedave:drafts=2", "lossless"),
    "FreeDave d=4": ("freedave:drafts=4", "lossless, up to 2.8-3.8x throughput"),
    "FreeDave d=8": ("freedave:drafts=8", "lossless"),
    "FreeDave d=auto": ("freedave:drafts=auto,row_cost=0.3", "not in the paper"),
}
#: the same labels by the policy's own spelling, as records have it
LABELS = {spell(parse_policy(policy)): label for label, (policy, _) in POLICIES.items()}


def table(summary: dict[str, Any]) -> list[str]:
    """Markdown rows, one per policy, over all tasks together; the oracle last."""
    rows = [row for row in summary["rows"] if row["task"] == ALL]
    rows += [bound for bound in summary["bounds"] if bound["task"] == ALL and bound["name"] == EGP.label]
    out = [
        "| policy | accuracy % (95 %) | NFE | content tokens per forward | rows forwarded | tokens forwarded | "
        "same text as static % | the paper, on LLaDA-8B |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = LABELS[row["policy"]] if "policy" in row else "EGP (oracle)"
        claim = POLICIES[name][1] if name in POLICIES else "15-20x fewer steps than static: Learn2PD's upper bound"
        accuracy, low, high = (100 * row[k] for k in ("accuracy", "accuracy_low", "accuracy_high"))
        content = row["nfe"] * row["tpf_content"]
        out.append(
            f"| {name} | {accuracy:.1f} ({low:.1f}-{high:.1f}) | {row['nfe']:.1f} | {row['tpf_content']:.2f} | "
            f"{content / row['row_tpf']:.1f} | {content / row['token_efficiency']:.0f} | "
            f"{100 * row['identity']:.1f} | {claim} |"
        )
    return out


def per_task(summary: dict[str, Any]) -> list[str]:
    """Accuracy and content tokens per forward of every policy on every task."""
    tasks = summary["setting"]["tasks"]
    cells = {(row["policy"], row["task"]): row for row in summary["rows"]}
    out = ["| policy | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for policy, label in LABELS.items():
        shown = [cells[policy, task] for task in tasks]
        figures = (f"{100 * row['accuracy']:.0f} @ {row['tpf_content']:.1f}" for row in shown)
        out.append(f"| {label} | " + " | ".join(figures) + " |")
    return out


def main(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/policies"),
    page: Annotated[Path, typer.Option(help="The page that holds the tables.")] = Path("docs/policies.md"),
    samples: Annotated[int, typer.Option(min=1, help="Per task.")] = 200,
    cache: Annotated[str, typer.Option(help="KV cache.")] = "none",
    processes: Annotated[int, typer.Option(min=1, help="That decode side by side.")] = 2,
) -> None:
    """Run the comparison and write its tables into the page."""
    policies = [policy for policy, _ in POLICIES.values()]
    summary = compare("tiny", policies, "all", out, caches=cache, samples=samples, processes=processes)
    put(page, "overall", table(summary))
    put(page, "tasks", per_task(summary))


if __name__ == "__main__":
    typer.run(main)

"""The measured tables of ``docs/policies.md``: every policy at its paper's values and tuned, all tasks, one command.

    python -m scripts.policy_table --processes 2          # measure (resumable), write the page
    python -m scripts.policy_table --tune --processes 2   # first choose the tuned values anew, on the valid split
    python -m scripts.policy_table --model tiny-long --tasks long   # the section of the long tasks alone

Published values are never chosen here: they are the papers', or the plain ladder k = 1, 2, 4 and d = 2, 4, 8.  Tuned
ones (``scripts/grids/tuned.json``, by model) are, per policy, the fastest of a few values of its knobs that loses at
most one point to static decoding on the valid split (paired by problem, one-sided 95 %); one that loses more
by a standard error on the first problems is tried no further.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dllm_decode.files import write_whole
from dllm_decode.lab import halving
from dllm_decode.lab.compare import compare
from dllm_decode.lab.points import STATIC, points
from dllm_decode.lab.records import Record, read_records
from dllm_decode.lab.setting import EGP, task_names
from dllm_decode.lab.summary import ALL
from dllm_decode.tasks import group
from samplers import parse_policy, spell
from scripts.docs_page import put

TUNED = Path(__file__).parent / "grids" / "tuned.json"
DROP = 1.0  #: points that a tuned policy may lose
FEW = 15  #: problems per task after which a policy that loses more, by a standard error, is dropped
ONE_SIDED = 1.645  #: standard errors of a one-sided 95 % bound
ACROSS = "drafts=8,cross_block=true"

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
    "Threshold + DoubtExit": ("threshold+doubtexit", "ours, in no paper"),
    "ContentFirst": ("contentfirst", "ours, in no paper"),
    "ContentFirst + DoubtExit": ("contentfirst+doubtexit", "ours, in no paper"),
    "ContentFirst x AllButOne + DoubtExit": ("contentfirst:step=(allbutone)+doubtexit", "ours, in no paper"),
    "FreeDave x Threshold": (f"freedave:step=(threshold),{ACROSS}", "lossless: the threshold's text"),
    "FreeDave x ContentFirst + DoubtExit": (f"freedave:step=(contentfirst),{ACROSS}+doubtexit", "ours, in no paper"),
}

#: what is tried for the tuned row of a policy
KNOBS: dict[str, list[str]] = {
    "Threshold 0.9": [f"threshold:threshold={bar}" for bar in (0.8, 0.85, 0.88, 0.92, 0.95)],
    "Factor 1": [f"factor:factor={factor}" for factor in (0.2, 0.35, 0.5, 0.7)],
    "Frechet 0.25": [f"frechet:margin={margin}" for margin in (0.5, 0.65, 0.75, 0.85)],
    "EntropyBound 0.1": [f"entropybound:gamma={gamma}" for gamma in (0.03, 0.06, 0.2, 0.3)],
    "EntropyThreshold": [f"entropythreshold:threshold={bar}" for bar in (0.1, 0.2, 0.3, 0.4)],
    "Hierarchy": [f"hierarchy:threshold={bar},low={low}" for bar in (0.85, 0.9, 0.95) for low in (0.6, 0.75)],
    "Credit": [f"credit:threshold={bar},alpha={alpha}" for bar in (0.93, 0.96) for alpha in (0.35, 0.7)],
    "KLASS": [f"klass:threshold={bar}" for bar in (0.7, 0.8, 0.95)],
    "LocalLeap": [
        f"localleap:anchor_threshold={anchor},relaxed_threshold={relaxed}"
        for anchor in (0.9, 0.95, 0.97)
        for relaxed in (0.82, 0.85, 0.88)
    ],
    "AdaBlock x Threshold": [f"adablock+threshold:threshold={bar}" for bar in (0.85, 0.92, 0.95)],
    "CCD-DS": [f"ccdds:candidates={count}" for count in (2, 8)],
    "Learn2PD": [f"learn2pd:threshold={bar}" for bar in (0.9, 0.95, 0.98, 0.99)],
    "SchED x Threshold": [f"threshold+sched:high={bar},low={bar}" for bar in (12.0, 14.25, 16.0, 18.0)],
    "Prophet": [
        f"topk:k=1+prophet:early={early},middle={middle},late={late}"
        for early, middle, late in ((14.5, 10.0, 2.5), (17.0, 14.0, 5.0))
    ],
    "Wino": [f"wino:threshold={bar}" for bar in (0.7, 0.8, 0.88)],
    "LoPA k=2": [f"lopa:threshold={bar}" for bar in (0.92, 0.95)],
    "DAWN": [f"dawn:low={low}" for low in (0.8, 0.85)],
    "Threshold + DoubtExit": [f"threshold+doubtexit:eps={eps}" for eps in (0.05, 0.1, 0.2, 0.3)],
    "ContentFirst": [f"contentfirst:step=(threshold:threshold={bar})" for bar in (0.85, 0.88, 0.92)],
    "ContentFirst + DoubtExit": [
        f"contentfirst:step=(threshold:threshold={bar})+doubtexit:eps={eps}"
        for bar in (0.88, 0.92)
        for eps in (0.1, 0.15, 0.2)
    ],
    "FreeDave x ContentFirst + DoubtExit": [
        f"freedave:step=(contentfirst:step=(threshold:threshold={bar})),{ACROSS}+doubtexit:eps={eps}"
        for bar in (0.88, 0.92)
        for eps in (0.15, 0.2)
    ],
}


def spelled(policy: str) -> str:
    """A policy's own spelling, as records have it."""
    return spell(parse_policy(policy))


def choose(records: list[Record], knobs: dict[str, list[str]], drop: float = DROP) -> dict[str, str | None]:
    """By label the fastest policy that is shown to lose at most ``drop`` points, or None; published values count."""
    by_label: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record["task"], record["sample"])):
        by_label[record["label"]].append(record)
    found: dict[str, str | None] = {}
    for label, tried in knobs.items():
        texts = [text for text in map(spelled, [POLICIES[label][0], *tried]) if text in by_label]
        scores = [halving.score(text, by_label[text], by_label[STATIC.label]) for text in texts]
        best = halving.choose(scores, drop, ONE_SIDED)
        found[label] = None if best is None else best.label
    return found


def tune_rows(model: str, tasks: str, out: Path, samples: int, **how: Any) -> dict[str, str | None]:
    """Decode what is tried on the valid split, and choose; most of it is out of the question after `FEW` problems."""
    left = list(
        dict.fromkeys(spelled(text) for label, knobs in KNOBS.items() for text in (POLICIES[label][0], *knobs))
    )

    def decode(rung: halving.Rung, labels: Sequence[str]) -> list[Record]:
        folder, size = (
            out / f"valid-{rung.first}-{rung.last}",
            {"first": rung.first, "samples": rung.last - rung.first},
        )
        compare(model, labels, tasks, folder, split="valid", egp=False, **size, **how)
        return read_records(folder)

    race = halving.Heats(decode)
    ends = sorted({min(FEW, samples), samples})
    for first, last in zip([0, *ends], ends, strict=False):
        if left:
            scores = race(halving.Rung(first, last, len(left)), left)
            left = [label for label, score in scores.items() if score.within(DROP, 1)]
    return choose([record for text in (STATIC.label, *left) for record in race.held[text]], KNOBS)


def rows(tuned: dict[str, str | None]) -> dict[str, tuple[str, str]]:
    """Label -> (policy, remark): every published row, each followed by its tuned one where that is another policy."""
    out: dict[str, tuple[str, str]] = {}
    for label, (policy, claim) in POLICIES.items():
        out[label] = policy, claim
        best = tuned.get(label)
        if best is not None and spelled(best) != spelled(policy):
            out[f"{label}, tuned"] = best, f"tuned: `{best}`"
        elif label in tuned:
            remark = "no value tried stays within a point" if best is None else "tuned: as published"
            out[label] = policy, f"{claim} ({remark})"
    return out


def table(summary: dict[str, Any], named: dict[str, tuple[str, str]]) -> list[str]:
    """Markdown rows, one per policy, over all tasks together; the oracle last."""
    found = {row["policy"]: row for row in summary["rows"] if row["task"] == ALL}
    lines = [
        (name, claim, found[spelled(policy)]) for name, (policy, claim) in named.items() if spelled(policy) in found
    ]
    for bound in summary["bounds"]:
        if bound["task"] == ALL and bound["name"] == EGP.label:
            lines.append(("EGP (oracle)", "15-20x fewer steps than static: Learn2PD's upper bound", bound))
    out = [
        "| policy | accuracy % (95 %) | NFE | content tokens per forward | rows forwarded | tokens forwarded | "
        "same text as static % | the paper, on LLaDA-8B |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, claim, row in lines:
        accuracy, low, high = (100 * row[k] for k in ("accuracy", "accuracy_low", "accuracy_high"))
        content = row["nfe"] * row["tpf_content"]
        out.append(
            f"| {name} | {accuracy:.1f} ({low:.1f}-{high:.1f}) | {row['nfe']:.1f} | {row['tpf_content']:.2f} | "
            f"{content / row['row_tpf']:.1f} | {content / row['token_efficiency']:.0f} | "
            f"{100 * row['identity']:.1f} | {claim} |"
        )
    return out


def per_task(summary: dict[str, Any], named: dict[str, tuple[str, str]], tasks: list[str]) -> list[str]:
    """Accuracy and content tokens per forward of every policy on some tasks."""
    cells = {(row["policy"], row["task"]): row for row in summary["rows"]}
    out = ["| policy | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for label, (policy, _) in named.items():
        shown = [cells[spelled(policy), task] for task in tasks if (spelled(policy), task) in cells]
        if shown:
            figures = (f"{100 * row['accuracy']:.0f} @ {row['tpf_content']:.1f}" for row in shown)
            out.append(f"| {label} | " + " | ".join(figures) + " |")
    return out


def about(summary: dict[str, Any], named: dict[str, tuple[str, str]]) -> str:
    """What the figures hang on, and which policies do not fit the model."""
    setting = summary["setting"]
    block = next(iter(setting["config"].values()))["block_length"]
    cache = setting["caches"][0]
    missing = {point["label"] for point in setting.get("left_out", ())}
    names = ", ".join(name for name, (policy, _) in named.items() if points([policy])[-1].label in missing)
    return (
        f"Model `{Path(setting['model']).name}`, {', '.join(setting['tasks'])}: {setting['samples']} problems of the "
        f"{setting['split']} split each, blocks of {block}, {'no' if cache == 'none' else cache} cache, "
        f"{setting['date']}.{f' Left out, for they do not fit this model: {names}.' if names else ''}"
    )


def read_tuned(file: Path) -> dict[str, dict[str, str | None]]:
    """The tuned values by model, then by label."""
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def main(
    out: Annotated[Path | None, typer.Option(help="Folder of the runs; runs/policies-MODEL without.")] = None,
    page: Annotated[Path, typer.Option(help="The page that holds the tables.")] = Path("docs/policies.md"),
    model: Annotated[str, typer.Option(help="A bundled model or a folder.")] = "tiny",
    tasks: Annotated[str, typer.Option(help="'all' or 'long', or names of either with commas.")] = "all",
    samples: Annotated[int, typer.Option(min=1, help="Per task, of the test split.")] = 100,
    tune: Annotated[bool, typer.Option("--tune", help="Choose the tuned values first.")] = False,
    tuned: Annotated[Path, typer.Option(help="The tuned values.")] = TUNED,
    valid_samples: Annotated[int, typer.Option(min=1, help="Per task, of the valid split.")] = 60,
    cache: Annotated[str, typer.Option(help="KV cache.")] = "none",
    block_length: Annotated[int, typer.Option(min=1, help="Cells per block.")] = 16,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows decoded together.")] = 16,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="That decode side by side.")] = 2,
) -> None:
    """Run the comparisons and write their tables into the page: the short tasks' or the long ones'."""
    asked = task_names(tasks)
    long = [task for task in asked if task in group("long")]
    if long and len(long) < len(asked):
        raise typer.BadParameter("short and long tasks have tables of their own; run once for each.")
    name = Path(model).name
    out = Path("runs") / f"policies-{name}" if out is None else out
    how: dict[str, Any] = {"caches": cache, "block_length": block_length, "batch_size": batch_size}
    how |= {"device": device, "dtype": "float32", "processes": processes}  # float32: on every device the same text
    how["lenient"] = True  # a policy may need a table that ships for another model
    if tune:
        chosen = {**read_tuned(tuned), name: tune_rows(model, tasks, out, valid_samples, **how)}
        write_whole(tuned, json.dumps(chosen, indent=1) + "\n")
    named = rows(read_tuned(tuned).get(name, {}))
    summary = compare(model, [policy for policy, _ in named.values()], tasks, out / "test", samples=samples, **how)
    overall, by_task = [about(summary, named), "", *table(summary, named)], per_task(summary, named, asked)
    if long:
        put(page, "long", [*overall, "", "Accuracy (%) @ content tokens per forward, per task:", "", *by_task])
    else:
        put(page, "overall", overall)
        put(page, "tasks", by_task)


if __name__ == "__main__":
    typer.run(main)

"""Is doubt calibrated? Summed doubt of the text against the share of right fills, forward by forward.

    python -m scripts.doubt_plot --picture docs/doubt.png     # prints the table too
    python -m scripts.doubt_plot --bar docs/policies.md       # what the exit saves and loses, into the page

At every forward of a decider the whole text is filled with what is proposed, and judged: `DoubtExit` leaves where the
doubt is at most its ``eps``. The bound on the chance of a wrong fill is the doubt itself (grey).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.lab.compare import compare
from dllm_decode.lab.metrics import paired, sample_of, wilson
from dllm_decode.lab.records import Record, read_records
from dllm_decode.lab.setting import task_names
from dllm_decode.models import load_model
from dllm_decode.tasks import TASKS, samples, score
from samplers import Composition, DoubtExit, parse_policy, spell
from scripts.docs_page import markdown_table, put
from scripts.plots import new_figure

DECIDERS = {"one cell per forward": "topk:k=1", "threshold 0.9": "threshold"}
BLOCK = 16
EXIT = "+doubtexit:stale=true"
LOST, SAVED = 0.5, 5.0  #: points that the exit may lose to its decider, per cent of the forwards that it has to save
EDGES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
Bins = list[tuple[int, int]]  #: per interval of doubt: right fills, fills


@dataclass(frozen=True)
class Watch(DoubtExit):
    """Never leaves; keeps (row, filled canvas, doubt) of every forward."""

    kept: list[tuple[int, list[int], float]] = field(default_factory=list, compare=False)

    def finish(self, view, prediction, decision, memory):  # type: ignore[no-untyped-def]
        """See `DoubtExit.finish`."""
        filled, doubt, memory = self.judge(view, prediction, memory)
        live = view.masked.any(-1).tolist()
        for name, row, d, alive in zip(view.name.tolist(), filled.tolist(), doubt.tolist(), live, strict=True):
            if alive:
                self.kept.append((name, row, d))
        return decision, memory


def measure(model: DenoisingModel, policy: str, tasks: Sequence[str], count: int) -> Bins:
    """Right fills and fills per interval of doubt."""
    right, total = [0] * (len(EDGES) - 1), [0] * (len(EDGES) - 1)
    for task in tqdm(tasks, desc=policy, disable=None):
        drawn = samples(task, "valid", count, 0)
        watch = Watch()
        config = GenerationConfig(max_new_tokens=TASKS[task].max_new_tokens, block_length=BLOCK)
        sampler = DiffusionSampler(model, Composition.of(parse_policy(policy), watch), "none", config)
        sampler.generate([sample.prompt for sample in drawn])
        judged: dict[tuple[int, str], bool] = {}  # most forwards propose what the one before did
        for row, ids, doubt in watch.kept:
            at = sum(doubt > edge for edge in EDGES[1:])
            if at >= len(total):
                continue
            end = next((i for i, token in enumerate(ids) if token in model.eos_ids), len(ids))
            text = model.tokenizer.decode(ids[:end], skip_special_tokens=True)
            if (row, text) not in judged:
                judged[row, text] = score(drawn[row], text)
            right[at] += judged[row, text]
            total[at] += 1
    return list(zip(right, total, strict=True))


def paid(records: Sequence[Record], caches: Sequence[str]) -> list[tuple[str, ...]]:
    """Per cache and decider: right answers and forwards of both, points lost to the decider, forwards saved."""
    sums: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in sorted(records, key=sample_of):
        sums[record["cache"], record["policy"]].append(record)
    out = []
    for cache, decider in product(caches, DECIDERS.values()):
        plain, exit = (sums[cache, spell(parse_policy(text))] for text in (decider, decider + EXIT))
        change = paired(exit, plain)
        low, high = change["difference_low"], change["difference_high"]
        forwards = [sum(record["nfe"] for record in run) for run in (plain, exit)]
        lost, saved = 0.0 - 100 * change["difference"], 100 * (1 - forwards[1] / forwards[0])
        span = "" if low is None else f" ({0.0 - 100 * high:.2f} to {0.0 - 100 * low:.2f})"
        met = "met" if lost <= LOST and saved >= SAVED else "missed"
        shares = [f"{100 * sum(r['correct'] for r in run) / len(run):.2f}" for run in (plain, exit)]
        per = [f"{total / len(plain):.2f}" for total in forwards]
        out.append((f"`{decider}`", cache, f"{len(plain)}", *shares, f"{lost:.2f}{span}", *per, f"{saved:.1f}", met))
    return out


def bar(model: str, tasks: str, count: int, folder: Path, page: Path, processes: int = 1) -> None:
    """Decode the test split with and without the exit, over no and over the dual cache; write the page's table."""
    caches = ("none", "dual")
    policies = [text for decider in DECIDERS.values() for text in (decider, decider + EXIT)]
    how: dict[str, Any] = {
        "samples": count,
        "block_length": BLOCK,
        "egp": False,
        "dtype": "float32",
        "processes": processes,
    }
    compare(model, policies, tasks, folder, caches=caches, **how)
    goal = f"at most {LOST} points, at least {SAVED} %"
    head = ("decider", "cache", "problems", "accuracy %", "with the exit", "points lost (95 %)",
            "forwards", "with the exit", "saved %", goal)  # fmt: skip
    put(page, "doubt bar", markdown_table(head, paid(read_records(folder), caches)))


def draw(found: dict[str, Bins], picture: Path) -> None:
    """Points with their Wilson intervals over the union bound."""
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    for at, (low, high) in enumerate(zip(EDGES, EDGES[1:], strict=False)):
        bound = 100 * max(0.0, 1 - high), 100 * max(0.0, 1 - low)
        axes.bar(at, bound[1] - bound[0], 0.92, bound[0], color="0.6", alpha=0.3, linewidth=0)
    for k, (name, bins) in enumerate(found.items()):
        shown = [(at, *bin) for at, bin in enumerate(bins) if bin[1]]
        share = [100 * right / count for _, right, count in shown]
        ends = [wilson(right, count) for _, right, count in shown]
        below = [max(0.0, s - 100 * low) for s, (low, _) in zip(share, ends, strict=True)]
        above = [max(0.0, 100 * high - s) for s, (_, high) in zip(share, ends, strict=True)]
        place = [at + 0.24 * (k - (len(found) - 1) / 2) for at, _, _ in shown]
        look: dict[str, Any] = {"color": ("#0072b2", "#d55e00")[k % 2], "marker": "os"[k % 2]}
        axes.errorbar(place, share, [below, above], label=name, linestyle="", markersize=5, elinewidth=1, **look)
    axes.set_xticks(range(len(EDGES) - 1), [f"{a:g}–{b:g}" for a, b in zip(EDGES, EDGES[1:], strict=False)])
    axes.tick_params(axis="x", labelsize=8, labelrotation=30)
    axes.set(xlabel="summed doubt of the text", ylabel="right fills (%)", ylim=(-2, 102))
    axes.set_title("Doubt against right fills (grey: 1 - doubt, the union bound)", loc="left", fontsize=11)
    axes.legend(frameon=False, loc="lower left")
    figure.savefig(picture, dpi=150)


def main(
    model: Annotated[str, typer.Option(help="A bundled model or a folder.")] = "tiny",
    tasks: Annotated[str, typer.Option(help="'all', 'long', or names with commas.")] = "all",
    count: Annotated[int, typer.Option(min=1, help="Problems per task, of the valid split.")] = 20,
    picture: Annotated[Path | None, typer.Option(help="PNG to write.")] = None,
    page: Annotated[Path | None, typer.Option("--bar", help="Page for what the exit saves and loses instead.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="With --bar: problems per task, of the test split.")] = 200,
    out: Annotated[Path, typer.Option(help="With --bar: folder of the run, resumable.")] = Path("runs/doubt"),
    processes: Annotated[int, typer.Option(min=1, help="With --bar: that decode side by side.")] = 2,
) -> None:
    """Measure, print, draw; or decode the test split with and without the exit."""
    if page is not None:
        bar(model, tasks, samples, out, page, processes)
        return
    loaded = load_model(model)
    names = task_names(tasks)
    found = {name: measure(loaded, policy, names, count) for name, policy in DECIDERS.items()}
    body = []
    for at, (low, high) in enumerate(zip(EDGES, EDGES[1:], strict=False)):
        shares = [f"{100 * bins[at][0] / max(1, bins[at][1]):.1f} ({bins[at][1]})" for bins in found.values()]
        body.append([f"{low:g} to {high:g}", *shares])
    print(*markdown_table(["doubt", *(f"right fills %, {name} (fills)" for name in found)], body), sep="\n")
    if picture is not None:
        draw(found, picture)


if __name__ == "__main__":
    typer.run(main)

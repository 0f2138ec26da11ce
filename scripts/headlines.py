"""The papers' headlines on the bundled model, and where each comes from: the baseline's tail, the cache, the policy.

    python -m scripts.headlines --docs docs/headlines.md     # measure, write the page and headlines.json beside it
    python -m scripts.headlines --check                      # decode again: exit 1 naming what lies off its interval

Every headline is a chain of runs that differ in one thing, on the same problems in one process and in turn:

    the paper's baseline -> it stops behind its text -> it gets the system's cache -> it gets the system's policy

The first link is the tail of end tokens that the baseline fills one by one, the second the cache, the third the
policy.  The paper's own ratio is the first run over the system as the paper runs it.  A run that several headlines
share is decoded once: the static baselines, one cell per forward over the whole canvas, are most of the time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tqdm import tqdm

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.files import write_whole
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.lab.metrics import wilson
from dllm_decode.lab.setting import machine
from dllm_decode.models import load_model
from dllm_decode.tasks import samples
from scripts.bench.bundled import SEED, Tally, in_turn
from scripts.docs_page import markdown_table, put

TASKS = (
    "chain",
    "word",
    "lines",
)  #: worked answers of 20 to 90 tokens: a canvas of 256 is mostly tail, as in the papers
LONGEST = 320  #: cells that the bundled model's 512 positions leave behind a prompt


@dataclass(frozen=True)
class Headline:
    """What a paper compares with what.

    Attributes:
        name: system and cells. ``claim``: the paper's, with its source.
        policy, cache: the system's. ``cells``: its canvas, at most ``LONGEST`` here. ``block``: of both.
        base: the baseline's policy. ``counts``: what the ratio is of: ``"seconds"``, ``"forwards"`` or ``"points"``.
        stops: the paper's system stops behind its text by itself.
    """

    name: str
    claim: str
    policy: str
    cells: int = 256
    cache: str = "none"
    block: int = 32
    base: str = "topk:k=1"
    counts: str = "seconds"
    stops: bool = False


HEADLINES = (
    Headline("Fast-dLLM, prefix, 256", "8.1x, GSM8K 79.3 -> 78.5 (arXiv 2505.22618)", "threshold", 256, "prefix"),
    Headline("Fast-dLLM, dual, 256", "6.9x (46.3 of 6.7 tokens/s; arXiv 2505.22618)", "threshold", 256, "dual"),
    Headline("Fast-dLLM, prefix, 512", "11x (35.3 of 3.2 tokens/s; arXiv 2505.22618)", "threshold", 512, "prefix"),
    Headline("Fast-dLLM, dual, 1024", "27.6x at 8 shots (arXiv 2505.22618)", "threshold", 1024, "dual"),
    Headline("LocalLeap, 512", "up to 6.94x tokens/s (arXiv 2510.07081)", "localleap", 512),
    Headline("AdaBlock, B0 = 64", "up to +5.3 points at equal speed (arXiv 2509.26432)", "adablock+threshold",
             256, "dual", 64, base="threshold", counts="points"),
    Headline("CCD-DS, 256", "3.48x fewer steps, +3.9 points (Trip, Dream; arXiv 2512.02044)", "ccdds", 256,
             counts="forwards"),
    Headline("Learn2PD + EoTP, 1024", "22.6x tokens/s (arXiv 2509.25188)", "learn2pd+eotp", 1024, stops=True),
    Headline("Learn2PD + EoTP, dual, 1024", "57.5x (arXiv 2509.25188)", "learn2pd+eotp", 1024, "dual", stops=True),
    Headline("SchED, 256", "3.8-4.0x fewer steps at 99.8 % (arXiv 2512.02892)", "topk:k=1+sched", 256,
             counts="forwards", stops=True),
    Headline("FreeDave, 256", "up to 3.78x tokens/s, lossless (arXiv 2510.00294)", "freedave:drafts=4", 256),
    Headline("dParallel's rule, 256", "8.5x fewer steps, distilled LLaDA (arXiv 2509.26488)", "entropythreshold", 256,
             counts="forwards"),
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """Sums over all problems of a chain's link: ``tokens`` forwarded, ``right`` answers of ``count``."""

    seconds: float
    forwards: int
    tokens: int
    right: int
    count: int

    @classmethod
    def of(cls, tallies: Sequence[Tally]) -> Run:
        """Of all tasks together."""
        total = [sum(tally.total(name) for tally in tallies) for name in ("nfe", "tokens_forwarded")]
        right, count = sum(tally.right for tally in tallies), sum(len(tally.records) for tally in tallies)
        return cls(sum(tally.seconds for tally in tallies), total[0], total[1], right, count)

    def over(self, other: Run, counts: str) -> float:
        """How many times less the other run takes."""
        return self.seconds / other.seconds if counts == "seconds" else self.forwards / other.forwards


Way = tuple[str, str, bool]


def links(line: Headline) -> dict[str, Way]:
    """The runs of a headline by name: policy, cache, early stop."""
    return {
        "paper's baseline": (line.base, "none" if line.counts != "points" else line.cache, False),
        "it stops": (line.base, "none" if line.counts != "points" else line.cache, True),
        "with the cache": (line.base, line.cache, True),
        "with the policy": (line.policy, line.cache, True),
        "paper's system": (line.policy, line.cache, line.stops),
    }


#: the run that "it stops" is, on the few problems of the runs that do not stop
FEW = "it stops, on the few"


def measure(chosen: Sequence[Headline], count: int, few: int, model: DenoisingModel) -> dict[str, dict[str, Run]]:
    """Every run of every headline; those of one canvas and block take turns on the same problems.

    Runs that fill the tail cost most and say the same of every problem: they, and what is compared with them, are of
    the first ``few`` problems of a task.
    """
    groups: dict[tuple[int, int], dict[Way, list[list[Tally]]]] = {}
    for line in chosen:
        group = groups.setdefault((min(line.cells, LONGEST), line.block), {})
        group.update((way, [[], []]) for way in links(line).values() if way not in group)
    bar = tqdm(total=len(TASKS) * sum(map(len, groups.values())), unit="run", disable=None)
    for (cells, block), ways in groups.items():
        config = GenerationConfig(max_new_tokens=cells, block_length=block)
        for task in TASKS:
            drawn = samples(task, "test", count, SEED)
            made = {way: DiffusionSampler(model, *way[:2], config.replace(early_stop=way[2])) for way in ways}
            for part, some in enumerate((drawn[:few], drawn[few:])):
                turns = {way: sampler for way, sampler in made.items() if some and (part == 0 or way[2])}
                for way, tally in (in_turn(turns, some, [s.prompt for s in some]) if turns else {}).items():
                    ways[way][part].append(tally)
            bar.update(len(ways))
    bar.close()
    found = {}
    for line in chosen:
        group = groups[min(line.cells, LONGEST), line.block]
        named = {FEW: links(line)["it stops"], **links(line)}
        first = {name: Run.of(group[way][0]) for name, way in named.items()}
        whole = {name: Run.of(group[way][0] + group[way][1]) for name, way in named.items()}
        found[line.name] = {name: first[name] if name in (FEW, "paper's system") else whole[name] for name in named}
    return found


def accuracy(run: Run) -> str:
    """In per cent, with its interval."""
    low, high = wilson(run.right, run.count)
    return f"{100 * run.right / run.count:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def lines(found: dict[str, dict[str, Run]]) -> list[str]:
    """The table of ratios, then that of the runs."""
    head = ("system", "the paper", "here, as the paper compares", "tail", "cache", "policy", "fair: all but the tail",
            "accuracy of baseline and system, %")  # fmt: skip
    columns = ("cells", "block", "policy", "cache", "stops", "problems", "ms per answer", "forwards",
               "tokens forwarded", "accuracy %")  # fmt: skip
    ratios: list[list[str]] = []
    runs: dict[tuple[int, int, Way], list[str]] = {}
    for line in HEADLINES:
        if line.name not in found:
            continue
        run, ways = found[line.name], links(line)
        chain = [run[name] for name in ("it stops", "with the cache", "with the policy")]
        kind = "forwards" if line.counts == "forwards" else "seconds"
        tail = run["paper's baseline"].over(run[FEW], kind)
        cache, policy = (a.over(b, kind) for a, b in zip(chain, chain[1:], strict=False))
        whole = run["paper's baseline"].over(run["paper's system"], kind)
        points = 100 * (chain[2].right - chain[0].right) / chain[0].count
        shown = f"{whole:.1f}x {kind}" if line.counts != "points" else f"{points:+.1f} points at {whole:.2f}x {kind}"
        changed = ways["it stops"] != ways["with the cache"]
        factors = [f"{tail:.2f}", f"{cache:.2f}" if changed else "-", f"{policy:.2f}", f"{cache * policy:.2f}"]
        ratios.append([line.name, line.claim, shown, *factors, f"{accuracy(chain[0])} / {accuracy(chain[2])}"])
        for name, way in ways.items():  # systems share runs
            of, place = run[name], (min(line.cells, LONGEST), line.block, way)
            per = [
                f"{value / of.count:.{digits}f}"
                for value, digits in ((1e3 * of.seconds, 0), (of.forwards, 1), (of.tokens, 0))
            ]
            setting = [f"{place[0]}", f"{line.block}", f"`{way[0]}`", way[1], "yes" if way[2] else "no"]
            runs.setdefault(place, [*setting, f"{of.count}", *per, accuracy(of)])
    return [*markdown_table(head, ratios), "", *markdown_table(columns, list(runs.values()))]


def differences(found: dict[str, dict[str, Run]], published: dict[str, dict[str, Any]]) -> list[str]:
    """A sentence per figure that lies off what was published: accuracy off its interval, forwards off by 2 %."""
    out = []
    for name, runs in found.items():
        for link, run in runs.items():
            if (was := published.get(name, {}).get(link)) is None:
                out.append(f"{name}, {link}: not published; run with --docs.")
                continue
            low, high = wilson(was["right"], was["count"])
            if not low <= run.right / run.count <= high:
                out.append(f"{name}, {link}: accuracy {run.right / run.count:.3f} off {low:.3f} to {high:.3f}.")
            here, there = run.forwards / run.count, was["forwards"] / was["count"]
            if run.count == was["count"] and abs(here - there) > 0.02 * there:
                out.append(f"{name}, {link}: {here:.2f} forwards, published {there:.2f}.")
    return out


def main(
    count: Annotated[int, typer.Option(min=1, help="Problems per task.")] = 15,
    few: Annotated[int, typer.Option(min=1, help="Of them, for the runs that fill the tail.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="Systems whose name begins so; may be repeated.")] = None,
    docs: Annotated[Path | None, typer.Option(help="Page to write, and headlines.json beside it.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Compare with the published figures.")] = False,
    published: Annotated[Path, typer.Option(help="The figures to compare with.")] = Path("docs/headlines.json"),
) -> None:
    """Measure; see the module's own text."""
    chosen = [line for line in HEADLINES if not only or line.name.startswith(tuple(only))]
    if not chosen:
        raise typer.BadParameter(f"no system begins with {only}; they are {', '.join(h.name for h in HEADLINES)}.")
    if docs is not None and len(chosen) < len(HEADLINES):
        raise typer.BadParameter("a page holds every system; leave --only or --docs out.")
    before = json.loads(published.read_text(encoding="utf-8")) if check else {}
    model = load_model("tiny")
    found = measure(chosen, count, few, model)
    print(*lines(found), sep="\n")
    if docs is not None:
        these = f"{count} problems ({min(few, count)} for the runs that do not stop) of each of {', '.join(TASKS)}"
        note = f"{these}; {machine()}, {torch.get_num_threads()} threads; {date.today().isoformat()}."
        put(docs, "headlines", [note, "", *lines(found)])
        plain = {name: {link: vars(run) for link, run in runs.items()} for name, runs in found.items()}
        write_whole(docs.with_name("headlines.json"), json.dumps(plain, indent=1) + "\n")
    if check and (wrong := differences(found, before)):
        print(*wrong, sep="\n")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)

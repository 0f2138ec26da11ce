"""``tune``: find the fastest policy that loses next to nothing, on one split; say what it is worth, on another."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from dllm_decode.engine.load import load_model
from dllm_decode.engine.policy_file import PolicyFile, write_policy_file
from dllm_decode.errors import DllmError
from dllm_decode.files import write_whole
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.lab.compare import compare
from dllm_decode.lab.curves import best_at_loss, pareto
from dllm_decode.lab.grids import TUNING_GRID, compositions
from dllm_decode.lab.halving import FEWEST, SPEEDS, Heats, Rung, Score, Speed, choose, halve
from dllm_decode.lab.metrics import RESAMPLES
from dllm_decode.lab.points import STATIC, points
from dllm_decode.lab.problems import is_oracle, sealed
from dllm_decode.lab.records import Record, read_records
from dllm_decode.lab.runner import Runner, run
from dllm_decode.lab.setting import FORMAT, keep_setting, plan, surroundings
from dllm_decode.lab.summary import ALL
from dllm_decode.lab.tables import QUALITY, about, table
from samplers import Policy

POLICY_NAME, REPORT_NAME, RESULT_NAME, SETTING_NAME = "policy.json", "tune.md", "tune.json", "tune-setting.json"


@dataclass(frozen=True)
class Tuned:
    """The outcome of :func:`tune`.

    Attributes:
        policy: the chosen policy string; static decoding if nothing was good enough.
        chosen: its figures on the test split. ``default``: those of the best default policy within the limit.
        gain: speed of the chosen one minus that of the default; ``gain_low``, ``gain_high``: bootstrap interval.
        beats: whether the chosen one is faster than every default within the limit, and within the limit itself.
        sentence: all this in words. ``frontier``: labels on the test split's frontier, the slowest first.
        folder: where everything lies.
    """

    policy: str
    chosen: dict[str, Any]
    default: dict[str, Any]
    gain: float
    gain_low: float | None
    gain_high: float | None
    beats: bool
    sentence: str
    frontier: tuple[str, ...]
    folder: Path


def tune(
    model: DenoisingModel | str,
    tasks: str | Sequence[str] = "all",
    out: str | Path = "runs/tune",
    *,
    max_drop: float = 1.0,
    policies: Sequence[str | Policy] = (),
    grid: Mapping[str, Any] | Sequence[Any] | str | Path | None = None,
    search: str = "policies",
    per: str = "forward",
    cache: str = "none",
    samples: int = 100,
    fewest: int = FEWEST,
    test_samples: int = 200,
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
    quiet: bool = False,
    processes: int = 1,
    **setting: Any,
) -> Tuned:
    """Choose a policy by successive halving on the valid split, then measure it on the test split.

    Deterministic, and resumable: run it again with the same arguments after a kill. The test split cannot be drawn
    before the choice is written to ``policy.json``.

    Args:
        model: a loaded model, or its name.
        tasks: bundled tasks.
        out: the folder of all its runs.
        max_drop: points of accuracy that may be lost against static decoding.
        policies: candidates, or their strings.
        grid: candidates as a grid; without either, a wide set of our own, as far as it fits model and cache.
        search: that set: ``"policies"``, each over its knob, or ``"compositions"``, singles to quadruples of parts.
        per: what is counted: content tokens per ``"forward"``, per forwarded ``"row"`` (drafts are rows) or per
            ``"second"``, which hangs on the machine and on what else it does.
        cache: for all candidates.
        samples: per task on the valid split, in the last round.
        fewest: in the first one; with many tasks fewer than ten are many problems.
        test_samples: per task on the test split.
        seed: of the problems.
        device: where to load the model.
        dtype: in which precision.
        quiet: no progress bars.
        processes: that decode side by side; see :func:`~dllm_decode.lab.runner.run`.
        **setting: ``templates``, ``canvas``, ``batch_size``, ``block_length`` and others of
            :func:`~dllm_decode.lab.setting.plan`.

    Raises:
        DllmError, PolicyError: something is wrong with the input; nothing has been decoded then.
    """
    folder = Path(out)
    if isinstance(max_drop, bool) or not isinstance(max_drop, (int, float)) or not 0 <= max_drop <= 100:
        raise DllmError(f"max_drop is {max_drop!r}; give points of accuracy from 0 to 100.")
    name = model if isinstance(model, str) else model.name
    if isinstance(fewest, bool) or not isinstance(fewest, int) or fewest < 1:
        raise DllmError(f"fewest is {fewest!r}; give a whole number of samples per task from 1 up.")
    if search not in ("policies", "compositions"):
        raise DllmError(f"search is {search!r}; give policies or compositions.")
    if per not in SPEEDS:
        raise DllmError(f"per is {per!r}; give {', '.join(SPEEDS)}.")
    ours = grid is None and not policies
    if search == "compositions" and not ours:
        raise DllmError("search=compositions brings its own candidates; leave policies and grid out.")
    wide = (TUNING_GRID if search == "policies" else compositions()) if ours else grid
    found = points(policies, wide)
    defaults = list(dict.fromkeys(p.family for p in found if p != STATIC))
    if search == "compositions":  # of so many families the plain ones are what a choice has to beat
        defaults = [family for family in defaults if not {"+", "("} & set(family)]
    candidates = [p.policy for p in points([*(p.policy for p in found), *defaults]) if p != STATIC]
    if not candidates:
        raise DllmError("there is no candidate but static decoding; give policies or a grid.")
    shared = {"caches": [cache], "seeds": [seed], "egp": False, **setting}
    last = plan(name, candidates, tasks, split="valid", samples=samples, **shared)
    plan(name, candidates, tasks, split="test", samples=test_samples, **shared)  # refuse wrong input now
    oracle = next((task for task in last.tasks if is_oracle(task)), None)
    if oracle is not None:
        raise DllmError(f"{oracle} has no splits to tune on; give bundled tasks.")
    loaded = load_model(model, dtype=dtype, device=device) if isinstance(model, str) else model
    if ours:  # nobody has chosen these: what does not fit is left out
        runner = Runner(last, loaded)
        runner.check(lenient=True)
        unfit = {point.policy for point in last.points if (point.label, cache) in runner.left_out}
        candidates = [policy for policy in candidates if policy not in unfit]
        defaults = [name for name in defaults if unfit.isdisjoint(p.policy for p in points([name]) if p != STATIC)]
        last = plan(name, candidates, tasks, split="valid", samples=samples, **shared)
    described = {
        **last.to_dict(),
        "max_drop": max_drop,
        "per": per,
        "fewest": fewest,
        "test_samples": test_samples,
        **surroundings(),
    }
    keep_setting(folder, {**described, "version": FORMAT}, SETTING_NAME)

    def decode(rung: Rung, labels: Sequence[str]) -> list[Record]:
        size = {"first": rung.first, "samples": rung.last - rung.first}
        part = plan(name, labels, tasks, split="valid", **{**shared, **size})
        return run(part, folder / f"valid-{rung.first}-{rung.last}", loaded, quiet=quiet, processes=processes)

    race = Heats(decode, per)
    with sealed("test"):
        finalists, scores = halve(candidates, samples, max_drop, race, fewest)
        best = choose(list(scores.values()), max_drop)
    policy = STATIC.policy if best is None else best.label
    valid = None if best is None else {k: v for k, v in asdict(best).items() if k != "label"}
    origin = {"model": name, "tasks": list(last.tasks), "max_drop": max_drop, "valid": valid}
    settings = {"block_length": last.config.block_length}
    write_policy_file(folder / POLICY_NAME, PolicyFile(policy, cache, settings, origin))

    test = folder / "test"
    chosen = [] if policy == STATIC.policy else [policy]
    summary = compare(
        loaded,
        [*chosen, *finalists, *defaults],
        tasks,
        test,
        split="test",
        samples=test_samples,
        quiet=quiet,
        processes=processes,
        **shared,
    )
    note = ""
    if best is None:
        count = len(race.held[STATIC.label])
        note = (
            f" No candidate was shown to lose at most {max_drop:g} points on the valid split's {count} samples, so "
            "static decoding was chosen; more samples can show more."
        )
    tuned = _judge(summary, read_records(test), policy, defaults, max_drop, SPEEDS[per], folder, note)
    _write_report(tuned, summary, finalists, scores, max_drop, SPEEDS[per])
    return tuned


def _judge(
    summary: Mapping[str, Any],
    records: Sequence[Record],
    policy: str,
    defaults: Sequence[str],
    drop: float,
    speed: Speed,
    out: Path,
    note: str,
) -> Tuned:
    """Compare the chosen policy with the best default on the test split."""
    rows = {row["policy"]: row for row in summary["rows"] if row["task"] == ALL}
    static, chosen = rows[STATIC.policy], rows[policy]
    of_defaults = [rows[text] for text in dict.fromkeys([STATIC.policy, *defaults])]
    default = best_at_loss(of_defaults, static["accuracy"], drop, speed.column) or static
    gain = chosen[speed.column] - default[speed.column]
    low, high = _gain_interval(records, chosen["label"], default["label"], speed.cost)
    lost = 100 * (static["accuracy"] - chosen["accuracy"])
    within = lost <= drop + 1e-9
    beats = within and gain > 0
    figures = f"{chosen[speed.column]:.2f} {speed.words} at {0.0 - lost:+.1f} points on the test split"
    other = f"the best default policy within {drop:g} points, {default['label']}, has {default[speed.column]:.2f}"
    if policy == default["policy"]:
        verdict = "which is the chosen policy itself, so tuning gained nothing"
    else:
        interval = "" if low is None else f" (95 %: {low:+.2f} to {high:+.2f})"
        verdict = f"so the tuned policy decodes {abs(gain):.2f} {'more' if gain > 0 else 'fewer'}{interval}"
        verdict = verdict if gain else "so the tuned policy is no faster"
    warning = "" if within else f" It loses more than {drop:g} points there, so it does not keep the limit."
    return Tuned(
        policy=policy,
        chosen=dict(chosen),
        default=dict(default),
        gain=gain,
        gain_low=low,
        gain_high=high,
        beats=beats,
        sentence=f"{chosen['label']} reaches {figures}; {other}, {verdict}.{warning}{note}",
        frontier=tuple(row["label"] for row in pareto(list(rows.values()), speed.column)),
        folder=out,
    )


def _gain_interval(records: Sequence[Record], mine: str, other: str, cost: str) -> tuple[float | None, float | None]:
    """Percentile bootstrap interval, over problems, of the difference in content tokens per ``cost``."""
    sums: dict[tuple[Any, ...], np.ndarray] = defaultdict(lambda: np.zeros(4))
    for record in records:
        for label, at in ((mine, 0), (other, 2)):
            if record["label"] == label:
                problem = (record["task"], record["seed"], record["sample"])
                sums[problem][at : at + 2] += record["n_content"], record[cost]
    columns = tuple(np.stack(list(sums.values())).T)
    if len(sums) < 2 or mine == other:
        return None, None
    found = stats.bootstrap(
        columns,
        lambda a, b, c, d, axis: a.sum(axis) / b.sum(axis) - c.sum(axis) / d.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, 1_000_000 // len(sums)),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def _write_report(
    tuned: Tuned,
    summary: Mapping[str, Any],
    finalists: Sequence[str],
    scores: Mapping[str, Score],
    drop: float,
    speed: Speed,
) -> None:
    """``tune.md`` and ``tune.json``."""
    everywhere = [row for row in summary["rows"] if row["task"] == ALL]
    frontier = [row for row in everywhere if row["label"] in tuned.frontier]
    frontier.sort(key=lambda row: row[speed.column])
    valid = "".join(
        f"- `{s.label}`: {s.speed:.2f} {speed.words}, {100 * s.difference:+.1f} points to static "
        f"(standard error {100 * s.error:.1f})\n"
        for s in (scores[label] for label in finalists)
    )
    shown = QUALITY if speed.column in QUALITY else (*QUALITY[:3], speed.column, *QUALITY[3:])
    text = (
        f"# Tuned for at most {drop:g} points of loss\n\n{tuned.sentence}\n\n"
        f"Policy file: `{POLICY_NAME}`; use it as `--policy @{POLICY_NAME}`.\n\n"
        f"## Finalists on the valid split\n\n{valid}\n"
        f"## Frontier on the test split\n\n{table(shown, frontier)}\n"
        f"## Everything measured on the test split\n\n{table(shown, everywhere)}\n{about(summary['setting'])}\n\n"
        "Details, by task: `test/summary.md`, `test/report.html`.\n"
    )
    write_whole(tuned.folder / REPORT_NAME, text)
    result = {k: v for k, v in asdict(tuned).items() if k != "folder"}
    result["finalists"] = [asdict(scores[label]) for label in finalists]
    write_whole(tuned.folder / RESULT_NAME, json.dumps(result, indent=1) + "\n")

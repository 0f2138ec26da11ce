"""Static pictures of a comparison for pages, drawn by matplotlib (the ``plots`` extra); the report is for looking."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dllm_decode.errors import DllmError
from dllm_decode.filter_training.train import check_plots
from dllm_decode.lab.pictures import EDGES, PROGRESS_BINS, Pictures, draw_pictures, representatives
from dllm_decode.lab.problems import is_oracle
from dllm_decode.lab.records import Record, read_records
from dllm_decode.lab.setting import read_setting
from dllm_decode.lab.summary import ALL, summarise
from dllm_decode.viewing.page import asset
from scripts.frontier import BOUNDS, GREY, INK, SIZE, STATIC, draw_frontier, front_families, picture_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = "plots"
DPI = 180
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "h")
DASHES = ("-", "--", ":", "-.")
SOFT = "#5a616c"


def write_plots(folder: str | Path, summary: Mapping[str, Any] | None = None) -> list[Path]:
    """Draw the figures of a finished run into ``plots/``.

    Args:
        folder: the run folder.
        summary: what :func:`~dllm_decode.lab.summary.summarise` made, if the caller has it.

    Returns:
        The files, per cache: accuracy against content TPF over all tasks and by task, heat maps, tokens committed per
        forward, calibration.

    Raises:
        DllmError: matplotlib is missing, or there is no finished run.
    """
    check_plots()
    folder = Path(folder)
    setting, records = read_setting(folder), read_records(folder)
    figures = _Figures(setting, records, summarise(setting, records) if summary is None else summary)
    out = folder / FOLDER
    try:
        out.mkdir(exist_ok=True)
        written = []
        for cache in setting["caches"]:
            for name, figure in figures.of(cache).items():
                path = out / f"{name}-{cache}.png"
                figure.savefig(path, dpi=DPI)
                written.append(path)
    except OSError as error:
        raise DllmError(f"cannot write plots to {str(out)!r} ({error.strerror}); free that place.") from error
    return written


class _Figures:
    """The figures of one run."""

    def __init__(self, setting: Mapping[str, Any], records: Sequence[Record], summary: Mapping[str, Any]) -> None:
        self.setting, self.summary = setting, summary
        self.static: str = setting["static"]
        self.tasks: list[str] = list(setting["tasks"])
        self.labels = [policy["label"] for policy in setting["policies"]]
        self.family = {policy["label"]: policy["family"] for policy in setting["policies"]}
        self.families = [f for f in dict.fromkeys(self.family.values()) if f != self.family[self.static]]
        self.colours = re.findall(r"--c\d: (#[0-9a-f]{6})", asset("style.css"))[:8]  # the report's, on white
        self.front = {cache: front_families(summary, cache) for cache in setting["caches"]}
        self.rows = {(row["label"], row["cache"], row["task"]): row for row in summary["rows"]}
        self.shown = representatives(summary)
        oracles = setting.get("oracles", {})
        masks = {t: oracles[t]["mask_id"] if t in oracles else setting["mask_id"] for t in self.tasks}
        pooled = [task for task in self.tasks if not is_oracle(task)] or self.tasks
        listed = [record for record in records if record["label"] in self.family]
        self.pictures: Pictures = draw_pictures(listed, masks, self.static, pooled)

    def of(self, cache: str) -> dict[str, Figure]:
        """The figures over one cache, by file name."""
        return {
            "frontier": self.frontier(cache),
            "tasks": self.by_task(cache),
            "heat": self.heat(cache),
            "steps": self.steps(cache),
            "calibration": self.calibration(cache),
        }

    def look(self, family: str, cache: str) -> dict[str, Any]:
        """Colour and marker of a family: grey unless it is on the front over all tasks."""
        if family == self.family[self.static]:
            return {"color": STATIC, "marker": "o", "linestyle": "--"}
        if family not in self.front[cache]:
            return {"color": GREY, "marker": ".", "linestyle": "-"}
        i = self.front[cache].index(family)
        turn = i // len(SHAPES)
        return {
            "color": self.colours[i % len(self.colours)],
            "marker": SHAPES[(i + turn) % len(SHAPES)],
            "linestyle": DASHES[turn % len(DASHES)],
        }

    def frontier(self, cache: str) -> Figure:
        """Accuracy against content TPF over all tasks."""
        figure = new_figure(*SIZE)
        draw_frontier(figure, self.summary, cache, {f: self.look(f, cache) for f in self.front[cache]})
        return figure

    def by_task(self, cache: str) -> Figure:
        """The same, task by task."""
        columns = min(3, len(self.tasks))
        rows = -(-len(self.tasks) // columns)
        figure = new_figure(2.6 * columns + 0.4, 2.2 * rows + 1.2)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(self.tasks) :]:
            axes.set_axis_off()
        for axes, task in zip(grid.flat, self.tasks, strict=False):
            self._frontier(axes, cache, task)
            axes.set_title(task, loc="left", fontsize=10)
        figure.supxlabel(f"content tokens per forward (log scale), cache {cache}", fontsize=10)
        figure.supylabel("accuracy (%)", fontsize=10)
        named: dict[str, Any] = {}
        for axes in grid.flat:
            named |= {text: handle for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=3, frameon=False)
        return figure

    def _frontier(self, axes: Axes, cache: str, task: str) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axes.set_xscale("log")
        for curve in self.summary["curves"]:
            if (curve["cache"], curve["task"]) != (cache, task):
                continue
            rows = [self.rows[label, cache, task] for label in curve["labels"] if label != self.static]
            look, lit = self.look(curve["family"], cache), curve["family"] in self.front[cache]
            axes.plot(*line_of(rows), color=look["color"], linestyle=look["linestyle"], linewidth=1.2, zorder=2 + lit)
            name = picture_name(curve["family"], 24) if lit else "other policies"
            draw_points(axes, rows, look, name, bars=lit)
        base = self.rows[self.static, cache, task]
        axes.axhline(100 * base["accuracy"], color=STATIC, linestyle="--", linewidth=1.1)
        draw_points(axes, [base], self.look("static", cache), "static", bars=True)
        for bound in self.summary["bounds"]:
            place = bound["cache"], bound["task"], bound["family"]
            if place == (cache, task, None) and bound["name"] in BOUNDS and bound["tpf_content"]:
                shape, label = BOUNDS[bound["name"]]
                style = {"marker": shape, "markeredgecolor": INK, "markerfacecolor": "white", "linestyle": ""}
                axes.plot(bound["tpf_content"], 100 * bound["accuracy"], markersize=6.5, label=label, **style)
        theory = [row for row in self.summary["information"] if row["task"] == task]
        if theory:
            xs, ys = [row["tpf_content"] for row in theory], [100 * row["p_valid"] for row in theory]
            axes.plot(xs, ys, linestyle="", marker="|", markersize=9, color=INK, label="L_T (bound)")
        low, high = axes.get_ylim()
        axes.set_ylim(max(-4, min(low, high - 20)), high)  # a point more or less shall not look like much
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())

    def heat(self, cache: str) -> Figure:
        """By task, of the families on the front: best content TPF at one point of loss, and accuracy.

        The tables beside the pictures have all settings; as a picture they would be too small to read.
        """
        tasks = [*self.tasks, ALL] if len(self.tasks) > 1 else self.tasks
        best = {(c["family"], c["task"]): c["best"]["1"] for c in self.summary["curves"] if c["cache"] == cache}
        shown = [label for label in self.shown.get((cache, ALL), []) if self.family[label] in self.front[cache]]
        families = [self.family[label] for label in shown]
        fast = [[(best.get((f, t)) or {"tpf_content": float("nan")})["tpf_content"] for f in families] for t in tasks]
        columns = [self.static, *shown]
        right = [[100 * self.rows[label, cache, task]["accuracy"] for label in columns] for task in tasks]
        above, below = ([picture_name(name, 24) for name in names] for names in (families, columns))
        longest = max(len(line) for name in (*above, *below) for line in name.split("\n"))
        figure = new_figure(SIZE[0], 1.2 + 0.56 * len(tasks) + 0.14 * longest)  # two maps, each above its names
        top, bottom = figure.subplots(2, 1)
        if families:
            draw_heat(top, fast, tasks, above, "{:.2f}", log=True)
        top.set_title("Best content tokens per forward at one point of loss", loc="left", fontsize=11)
        draw_heat(bottom, right, tasks, below, "{:.0f}")
        bottom.set_title("Accuracy (%)", loc="left", fontsize=11)
        return figure

    def steps(self, cache: str) -> Figure:
        """Content tokens committed per forward over a sample's progress."""
        shown = sorted(self.shown.get((cache, ALL), []), key=lambda label: self.family[label] in self.front[cache])
        figure = new_figure(6.4, 4.4 + 0.12 * len(self.front[cache]))
        axes = figure.subplots()
        found = self.pictures.steps()
        at = [(i + 0.5) * 100 / PROGRESS_BINS for i in range(PROGRESS_BINS)]
        for label in [*shown, self.static]:
            look = self.look(self.family[label], cache)
            lit = {"label": picture_name(label), "markersize": 5.5, "linewidth": 1.4}
            grey = {"label": "other policies", "marker": "", "linewidth": 0.8}
            axes.plot(at, found[label, cache, ALL], **{**look, **(grey if look["color"] == GREY else lit)})
        axes.set(xlabel="progress (% of the sample's forwards)", ylabel="content tokens per forward", xlim=(0, 100))
        axes.set_ylim(bottom=0)
        axes.set_title(f"Tokens committed per forward, all tasks, cache {cache}", loc="left", fontsize=11)
        named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=2, frameon=False)
        return figure

    def calibration(self, cache: str) -> Figure:
        """Agreement with static decoding by confidence."""
        figure = new_figure(6.4, 4.4 + 0.12 * len(self.front[cache]))
        axes = figure.subplots()
        found = self.pictures.calibration()
        front = [label for label in self.shown.get((cache, ALL), []) if self.family[label] in self.front[cache]]
        labels = [label for label in front if (label, cache, ALL) in found]
        for i, (low, high) in enumerate(zip(EDGES, EDGES[1:], strict=False)):
            axes.bar(i, 100 * (high - low), 0.92, 100 * low, color=SOFT, alpha=0.22, linewidth=0)
        for k, label in enumerate(labels):
            shift = (k / (len(labels) - 1) - 0.5) * 0.72 if len(labels) > 1 else 0.0
            bins = [(i, one) for i, one in enumerate(found[label, cache, ALL]) if one is not None]
            look = {**self.look(self.family[label], cache), "linestyle": ""}
            up = [100 * one["agreement"] for _, one in bins]
            bars = [
                [100 * (one["agreement"] - one["low"]) for _, one in bins],
                [100 * (one["high"] - one["agreement"]) for _, one in bins],
            ]
            at = [i + shift for i, _ in bins]
            look |= {"label": picture_name(label), "markersize": 5, "elinewidth": 0.9}
            axes.errorbar(at, up, [positive(b) for b in bars], **look)
        axes.set_xticks(
            range(len(EDGES) - 1), [f"{100 * a:.0f}–{100 * b:.0f}" for a, b in zip(EDGES, EDGES[1:], strict=False)]
        )
        axes.set(xlabel="confidence at the commit (%)", ylabel="same token as static (%)")
        lows = [100 * one["low"] for label in labels for one in found[label, cache, ALL] if one is not None]
        axes.set_ylim(max(0, min([50, *lows]) - 2), 101)
        axes.set_title(
            f"Calibration, all tasks, cache {cache} (grey: agreement = confidence)", loc="left", fontsize=11
        )
        axes.tick_params(axis="x", labelsize=8.5)
        if labels:
            figure.legend(loc="outside lower center", ncols=2, frameon=False)
        return figure


def new_figure(width: float, height: float) -> Figure:
    """A figure of some inches whose labels never overlap."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # Not pyplot's: no global state, no display.
    return Figure((width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))


def line_of(rows: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Content TPF and accuracy in %, of the rows that a log axis can show."""
    used = [row for row in rows if row["tpf_content"]]
    return [row["tpf_content"] for row in used], [100 * row["accuracy"] for row in used]


def positive(values: Sequence[float]) -> list[float]:
    """Lengths of error bars: an interval may end at its estimate, but for rounding."""
    return [max(0.0, value) for value in values]


def draw_points(
    axes: Axes, rows: Sequence[Mapping[str, Any]], look: Mapping[str, Any], label: str, bars: bool
) -> None:
    """Marks, with their Wilson intervals if ``bars``."""
    used = [row for row in rows if row["tpf_content"]]
    xs, ys = line_of(used)
    below = positive([100 * (row["accuracy"] - row["accuracy_low"]) for row in used])
    above = positive([100 * (row["accuracy_high"] - row["accuracy"]) for row in used])
    style = {**look, "linestyle": "", "markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.5}
    error = [below, above] if bars else None
    axes.errorbar(xs, ys, error, label=label, elinewidth=0.8, capsize=2, zorder=2 + bars, **style)


def draw_heat(
    axes: Axes, values: Any, rows: Sequence[str], columns: Sequence[str], shown: str, log: bool = False
) -> None:
    """A heat map with its numbers; on a log scale the colours follow ratios."""
    import numpy as np

    table = np.array(values, dtype=float)
    scaled = np.log(np.maximum(table, 1e-3)) if log else table
    axes.imshow(scaled, cmap="Blues", aspect="auto")
    low, high = np.nanmin(scaled), np.nanmax(scaled)
    for i, j in np.ndindex(table.shape):
        dark = scaled[i, j] > low + 0.6 * (high - low)
        text = "–" if np.isnan(table[i, j]) else shown.format(table[i, j])
        axes.text(j, i, text, ha="center", va="center", fontsize=9.5, color="white" if dark else INK)
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=9.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)

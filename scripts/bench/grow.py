"""How cost grows: step time and memory against the row length N and the batch B, each next to its floor."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dllm_decode.engine.cost import Machine, Shape, estimate_memory
from dllm_decode.models.native import NativeModel
from scripts.bench.measure import middle, random_llada, time_ours
from scripts.docs_page import markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "growth.png"
STYLES = {"no cache, step": ("tab:red", "o"), "dual, step": ("tab:blue", "s"), "dual, opening": ("tab:green", "^")}
MEMORY_STYLES = {"none": ("tab:red", "o"), "dual": ("tab:blue", "s")}


@dataclass(frozen=True)
class Sizes:
    """What to measure: a random LLaDA's ``layers``, ``width`` and ``vocabulary``, cells per ``block``, ``per_step``.

    ``lengths`` run over N at one row, ``batches`` over B at N = ``length``; ``repeats`` runs of each.
    """

    layers: int = 4
    width: int = 512
    vocabulary: int = 8192
    block: int = 32
    per_step: int = 4
    lengths: tuple[int, ...] = (128, 256, 512, 1024)
    batches: tuple[int, ...] = (1, 2, 4, 8)
    length: int = 256
    repeats: int = 3

    def __str__(self) -> str:
        return (
            f"LLaDA, {self.layers} layers, d {self.width}, vocabulary {self.vocabulary}, block {self.block}, "
            f"{self.per_step} cells per forward, fp32, CPU"
        )


@dataclass(frozen=True)
class Growth:
    """One shape.

    Attributes:
        cache: ``"none"`` or ``"dual"``. ``length``, ``batch``: N and B.
        times: by kind of forward, median milliseconds and the floor of the formulas.
        peak: bytes the process took at most: the weights, and what it grew by; ``None`` where that cannot be read.
        floor: bytes of weights and cache. ``estimate``: what ``generate --estimate`` says.
    """

    cache: str
    length: int
    batch: int
    times: dict[str, tuple[float, float]]
    peak: int | None
    floor: int
    estimate: int


def peak_growth(run: Callable[[], object]) -> int | None:
    """Bytes by which the resident memory of this process grew at most during ``run``; Linux only, else ``None``."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def resident(field: str) -> int:
        found = re.search(rf"{field}:\s+(\d+) kB", status.read_text())
        assert found is not None
        return 1024 * int(found.group(1))

    try:
        ctypes.CDLL(None).malloc_trim(0)  # or memory kept from an earlier run would hide this one's
        reset.write_text("5")  # VmHWM begins anew
        before = resident("VmRSS")
    except (AttributeError, AssertionError, OSError):
        run()
        return None
    run()
    return max(0, resident("VmHWM") - before)


def measure(model: NativeModel, machine: Machine, sizes: Sizes, cache: str, length: int, batch: int) -> Growth:
    """Decode one block of random rows; the second run and those after it count."""
    openings: list[float] = []
    steps: list[float] = []

    def once() -> None:
        a, b, _ = time_ours(model, length - sizes.block, sizes.block, sizes.block, sizes.per_step, cache, 0.0, batch)
        openings.extend(a)
        steps.extend(b)

    grown = peak_growth(once)
    openings.clear()
    steps.clear()
    for _ in range(sizes.repeats):
        once()
    shape = Shape.of(model.module.config, 4)
    memory = estimate_memory(shape, batch, length, sizes.block, cache)
    weights = sum(p.nbytes for p in model.module.parameters())
    held = (sizes.block - sizes.per_step) // 2  # mean masks left over the steps
    kinds = {"no cache, step": (openings + steps, length, sizes.block // 2)}
    if cache == "dual":
        kinds = {"dual, step": (steps, sizes.block, held), "dual, opening": (openings, length, sizes.block)}
    times = {
        kind: (middle(found), 1e3 * shape.floor(machine, batch, tokens, length, heads, cache == "dual"))
        for kind, (found, tokens, heads) in kinds.items()
    }
    peak = None if grown is None else weights + grown
    return Growth(cache, length, batch, times, peak, weights + memory.cache, memory.total)


def measure_growth(machine: Machine, sizes: Sizes) -> tuple[list[Growth], list[Growth]]:
    """Over the lengths at one row, and over the batches at one length; small shapes first."""
    model = random_llada(sizes.layers, sizes.width, sizes.vocabulary, max(*sizes.lengths, sizes.length))
    time_ours(model, sizes.length - sizes.block, sizes.block, sizes.block, sizes.per_step, "dual", 0.0)  # warm-up
    caches = ("none", "dual")
    by_length = [measure(model, machine, sizes, cache, n, 1) for cache in caches for n in sizes.lengths]
    by_batch = [measure(model, machine, sizes, cache, sizes.length, b) for cache in caches for b in sizes.batches]
    return by_length, by_batch


def plot_growth(folder: Path, machine: Machine, sizes: Sizes | None = None) -> list[str]:
    """Measure, draw ``growth.png`` in ``folder``, and return the figures as lines of a Markdown table."""
    sizes = sizes or Sizes()
    by_length, by_batch = measure_growth(machine, sizes)
    draw_growth(folder, sizes, by_length, by_batch)
    return growth_table([*by_length, *by_batch])


def draw_growth(folder: Path, sizes: Sizes, by_length: Sequence[Growth], by_batch: Sequence[Growth]) -> None:
    """Draw ``growth.png``: time above, memory below, over N and over B."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 7.5), constrained_layout=True)
    columns = ((by_length, "length", "row length N (B = 1)"), (by_batch, "batch", f"batch B (N = {sizes.length})"))
    for at, (found, axis, name) in enumerate(columns):
        points = sorted({getattr(one, axis) for one in found})
        for kind, look in STYLES.items():
            times = [one.times[kind] for one in found if kind in one.times]
            _draw(axes[0, at], points, kind, look, [ms for ms, _ in times], [floor for _, floor in times])
        for cache, look in MEMORY_STYLES.items():
            mine = [one for one in found if one.cache == cache]
            peaks = [_mib(one.peak) for one in mine if one.peak is not None]
            _draw(axes[1, at], points, f"cache {cache}", look, peaks, [_mib(one.floor) for one in mine])
            axes[1, at].plot(points, [_mib(one.estimate) for one in mine], ":", color=look[0])
        for row, (what, scale) in enumerate((("ms per forward", "log"), ("MiB at most", "linear"))):
            _finish(axes[row, at], name, what, points, scale)
        axes[1, at].set_ylim(bottom=0)
    how = "solid: measured; dashed: floor (time: formulas at this machine's rates; memory: weights and cache)"
    figure.suptitle(f"{sizes}\n{how}; dotted: generate --estimate", fontsize=9)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / NAME, dpi=110)
    plt.close(figure)


def _draw(
    axis: Axes, points: Sequence[int], label: str, look: tuple[str, str], measured: list[float], floors: list[float]
) -> None:
    if measured:  # a peak that cannot be read leaves the floor alone
        axis.plot(points, measured, color=look[0], marker=look[1], label=label)
    axis.plot(points, floors, "--", color=look[0])


def _finish(axis: Axes, name: str, what: str, points: Sequence[int], scale: str) -> None:
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    axis.set(xlabel=name, ylabel=what, xscale="log", yscale=scale)
    axis.set_xticks(points, [str(point) for point in points])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(ScalarFormatter())
    if axis.get_legend_handles_labels()[0]:
        axis.legend()


def _mib(value: Any) -> float:
    return float(value) / 2**20


def growth_table(found: Sequence[Growth]) -> list[str]:
    """Lines of a Markdown table; a shape that is in both plots is shown once."""
    head = ("cache", "N", "B", "forward", "ms", "floor ms", "times the floor", "MiB at most", "weights + cache",
            "--estimate")  # fmt: skip
    body = []
    for one in {(g.cache, g.length, g.batch): g for g in found}.values():
        for kind, (ms, floor) in one.times.items():
            memory = "-" if one.peak is None else f"{_mib(one.peak):.0f}"
            body.append(
                [one.cache, str(one.length), str(one.batch), kind.split(", ")[1], f"{ms:.1f}", f"{floor:.1f}",
                 f"{ms / floor:.1f}", memory, f"{_mib(one.floor):.0f}", f"{_mib(one.estimate):.0f}"]
            )  # fmt: skip
    return markdown_table(head, body)

"""Pieces of the matplotlib figures; matplotlib is imported on use only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#191c21"


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
    axes: Axes, rows: Sequence[Mapping[str, Any]], look: Mapping[str, Any], size: float, label: str
) -> None:
    """Marks with their Wilson intervals."""
    used = [row for row in rows if row["tpf_content"]]
    xs, ys = line_of(used)
    below = positive([100 * (row["accuracy"] - row["accuracy_low"]) for row in used])
    above = positive([100 * (row["accuracy_high"] - row["accuracy"]) for row in used])
    style = {**look, "linestyle": "", "markersize": size, "markeredgecolor": "white", "markeredgewidth": 0.6}
    axes.errorbar(xs, ys, [below, above], label=label, elinewidth=0.8, capsize=2, **style)


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
        axes.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if dark else INK)
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor", fontsize=7.5)
    axes.set_yticks(range(len(rows)), rows, family="monospace", fontsize=7.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)

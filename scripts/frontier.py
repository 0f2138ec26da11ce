"""The picture of a comparison's frontier: what no other policy beats in colour, the rest grey, labels beside marks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from dllm_decode.lab.curves import pareto
from dllm_decode.lab.summary import ALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

Row = Mapping[str, Any]
Looks = Mapping[str, Mapping[str, Any]]

GREY, STATIC, INK = "#8a909a", "#3c4149", "#191c21"
BOUNDS = {"egp": ("D", "EGP (bound)"), "per-sample best": ("*", "best per sample (bound)")}
DEPTH = 12  #: points of accuracy below static decoding that the close-up shows
SIZE = (6.4, 8.6)  #: inches: still legible when it is as narrow as a telephone


def front_families(summary: Mapping[str, Any], cache: str) -> list[str]:
    """Families with a setting that no other policy beats in both speed and accuracy over all tasks, fastest first."""
    front = pareto([row for row in _rows(summary, cache) if row["tpf_content"]])
    return list(dict.fromkeys(row["family"] for row in reversed(front) if row["kind"] != "static"))


def _rows(summary: Mapping[str, Any], cache: str) -> list[Row]:
    return [row for row in summary["rows"] if (row["task"], row["cache"]) == (ALL, cache)]


def short_name(row: Row) -> str:
    """A setting's name in a picture: its family, and the values in which the family's settings differ."""
    return picture_name(" ".join([row["family"], *(f"{value:g}" for value in row["knob"].values())]))


def picture_name(policy: str, width: int = 26) -> str:
    """A policy string as a picture has room for it: values without their fields' names, in lines of some width."""
    text = policy.replace(",cross_block=true", " across").replace(":step=(", "(")
    text = re.sub(r"[:,](?:\w+\.)?\w+=", " ", text)
    lines = [""]
    for word in re.findall(r".+?(?:[ (+]+|$)", text):  # broken behind what joins two parts
        if len(lines[-1] + word.rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.strip() for line in lines)


def coincident(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows that a picture can show, those at the very same place together."""

    def place(row: Row) -> tuple[float, float]:
        return round(row["tpf_content"], 3), round(row["accuracy"], 4)

    shown = sorted((row for row in rows if row["tpf_content"]), key=place)
    return [list(members) for _, members in groupby(shown, place)]


def draw_frontier(figure: Figure, summary: Mapping[str, Any], cache: str, looks: Looks) -> None:
    """Accuracy against content TPF over all tasks: everything, and below it the crowded region of the front.

    Args:
        figure: an empty one of :data:`SIZE`.
        summary: of the run.
        cache: the one to show.
        looks: colour and marker of the families of :func:`front_families`.
    """
    rows = _rows(summary, cache)
    base = next(row for row in rows if row["kind"] == "static")
    near = [row for row in rows if row["tpf_content"] and row["accuracy"] >= base["accuracy"] - DEPTH / 100]
    fastest = max((row["tpf_content"] for row in near), default=1)
    crowd = [row for row in near if row["tpf_content"] >= fastest / 2]
    whole, close = figure.subplots(2, 1, height_ratios=(4, 5))
    places = coincident(rows)
    bounds = [b for b in summary["bounds"] if (b["task"], b["cache"], b["family"]) == (ALL, cache, None)]
    bounds = [b for b in bounds if b["name"] in BOUNDS and b["tpf_content"]]
    for axes in (whole, close):
        axes.axhline(100 * base["accuracy"], color=STATIC, linestyle="--", linewidth=1, zorder=1)
        front = pareto([row for row in rows if row["tpf_content"]])
        axes.plot(*_line(front), color=INK, linewidth=1, alpha=0.35, zorder=1)
        for family, look in looks.items():
            own = sorted((row for row in rows if row["family"] == family), key=lambda row: row["tpf_content"] or 0)
            axes.plot(*_line(own), color=look["color"], linewidth=1.4, zorder=2)
        for members in places:
            _mark(axes, members, looks)
        for bound in bounds:
            style = {"marker": BOUNDS[bound["name"]][0], "markeredgecolor": INK, "markerfacecolor": "white"}
            axes.plot(bound["tpf_content"], 100 * bound["accuracy"], markersize=9, linestyle="", **style)
        axes.set_ylabel("accuracy (%)")
    _scales(whole, close, crowd, base)
    whole.set_title(f"All tasks, cache {cache}: every policy", loc="left")
    close.set_title("The crowded region", loc="left")
    close.set_xlabel("content tokens per forward")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # where things are is known from here on
    inside = {id(members) for members in places if any(row in crowd for row in members)}
    label_points(whole, [m for m in places if id(m) not in inside], bounds, looks)
    label_points(close, [m for m in places if id(m) in inside], [], looks)


def _line(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    used = [row for row in rows if row["tpf_content"]]
    return [row["tpf_content"] for row in used], [100 * row["accuracy"] for row in used]


def _lead(members: Sequence[Row], looks: Looks) -> Row:
    """The row whose look a place has: one of the front if there is one."""
    return min(members, key=lambda row: (row["kind"] != "static", row["family"] not in looks))


def _look(row: Row, looks: Looks) -> Mapping[str, Any]:
    if row["kind"] == "static":
        return {"color": STATIC, "marker": "o"}
    return looks.get(row["family"], {"color": GREY, "marker": "."})


def _mark(axes: Axes, members: Sequence[Row], looks: Looks) -> None:
    """One mark per place, with its Wilson interval on the front; a ring where several settings coincide."""
    row = _lead(members, looks)
    look, up = _look(row, looks), 100 * row["accuracy"]
    lit = row["family"] in looks or row["kind"] == "static"
    if lit:
        bars = [[max(0.0, up - 100 * row["accuracy_low"])], [max(0.0, 100 * row["accuracy_high"] - up)]]
        axes.errorbar(row["tpf_content"], up, bars, color=look["color"], elinewidth=0.8, capsize=2, zorder=2)
    style = {"linestyle": "", "markersize": 7, "markeredgecolor": "white", "markeredgewidth": 0.6}
    axes.plot(row["tpf_content"], up, zorder=4 if lit else 3, **{**style, **look})
    if len(members) > 1:
        ring = {"markerfacecolor": "none", "markeredgecolor": look["color"], "markersize": 12, "marker": "o"}
        axes.plot(row["tpf_content"], up, linestyle="", markeredgewidth=1, zorder=4, **ring)


def _scales(whole: Axes, close: Axes, crowd: Sequence[Row], base: Row) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    whole.set_xscale("log")
    whole.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    whole.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    whole.xaxis.set_minor_formatter(NullFormatter())
    if not crowd:
        return
    xs, ys = _line(crowd)
    wide, high = max(max(xs) - min(xs), 0.5), max(max(ys) - min(ys), 2.0)
    left, right = min(xs) - 0.08 * wide, max(xs) + 0.12 * wide
    low, top = min(ys) - 0.12 * high, max(*ys, 100 * base["accuracy"]) + 0.1 * high
    close.set(xlim=(left, right), ylim=(low, top))
    edge = {"fill": False, "edgecolor": GREY, "linewidth": 0.8, "linestyle": ":"}
    whole.add_patch(Rectangle((left, low), right - left, top - low, **edge))


def label_points(axes: Axes, places: Sequence[Sequence[Row]], bounds: Sequence[Row], looks: Looks) -> None:
    """Name the marks beside them, no name over another or over a mark; of grey ones those that find room.

    Settings that coincide share a label, joined by an equals sign.
    """
    from matplotlib.patheffects import withStroke

    wanted: list[tuple[int, str, str, Row]] = []
    for members in places:
        row = _lead(members, looks)
        lit = row["family"] in looks or row["kind"] == "static"
        text = " =\n".join(dict.fromkeys(short_name(one) for one in members))
        wanted.append((0 if lit else 2, text, _look(row, looks)["color"] if lit else GREY, row))
    wanted += [(1, BOUNDS[bound["name"]][1], INK, bound) for bound in bounds]
    marks = [axes.transData.transform((row["tpf_content"], 100 * row["accuracy"])) for *_, row in wanted]
    unit = axes.figure.dpi / 72
    taken: list[Bbox] = [_box(x, y, 4.5 * unit, y, 4.5 * unit) for x, y in marks]
    for rank, *_, row in wanted:
        if rank == 0:
            ends = [(row["tpf_content"], 100 * row[f"accuracy_{end}"]) for end in ("low", "high")]
            (x, low), (_, high) = axes.transData.transform(ends)
            taken.append(_box(x, low, unit, high, 0))
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i][0], -marks[i][0]))
    for i in order:
        rank, text, colour, _ = wanted[i]
        size = 9 if rank < 2 else 7.5
        label = axes.text(0, 0, text, transform=axes.transAxes, color=colour, fontsize=size, zorder=6, va="bottom")
        label.set_path_effects([withStroke(linewidth=2, foreground="white")])
        box = label.get_window_extent()
        found = _free_place(axes.bbox, taken, marks[i], box.width, box.height, unit, 16 if rank < 2 else 4)
        if found is None:
            label.remove()
            continue
        label.set_position(axes.transAxes.inverted().transform((found.x0, found.y0)))
        taken.append(found)
        ends = [min(max(marks[i][0], found.x0), found.x1), min(max(marks[i][1], found.y0), found.y1)]
        if (ends[0] - marks[i][0]) ** 2 + (ends[1] - marks[i][1]) ** 2 > (9 * unit) ** 2:
            (a, b), (c, d) = axes.transData.inverted().transform([ends, marks[i]])
            axes.plot((a, c), (b, d), color=colour, linewidth=0.6, alpha=0.8, zorder=3, scalex=False, scaley=False)


def _box(x: float, low: float, reach: float, high: float, over: float) -> Bbox:
    from matplotlib.transforms import Bbox

    return Bbox.from_extents(x - reach, low - over, x + reach, high + over)


def _free_place(
    room: Bbox, taken: Sequence[Bbox], mark: Sequence[float], width: float, height: float, unit: float, rings: int
) -> Bbox | None:
    """The nearest box of this size beside a mark that overlaps nothing; pixels."""
    from matplotlib.transforms import Bbox

    for ring in range(rings):
        gap = (6 + 7 * ring) * unit
        for right, up in ((1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0.5, 1), (0.5, -1)):
            x = mark[0] + right * gap + (right - 1) / 2 * width
            y = mark[1] + up * gap + (up - 1) / 2 * height
            box = Bbox.from_bounds(x, y, width, height)
            fits = room.x0 < box.x0 and box.x1 < room.x1 and room.y0 < box.y0 and box.y1 < room.y1
            if fits and not any(box.overlaps(other) for other in taken):
                return box
    return None

"""The canvas as it fills in: drawn in place in a terminal, one plain line per forward anywhere else.

Cells are coloured by the forward that committed them, early ones dark, late ones light (viridis). This module never
imports torch: a trace replays at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from types import TracebackType

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.style import Style
from rich.text import Text

from dllm_decode.engine.events import StepEvent
from dllm_decode.viewing.glyphs import NEWLINE, Glyphs, visible
from dllm_decode.viewing.playback import CanvasState

OPEN_MASK, FAR_MASK, VOLATILE_MASK = " ░", " ·", " ▒"
VOLATILE_STYLE = "#ffb000"
EDGE, EDGE_STYLE = "┃", "bold #ff4fa3"
_VIRIDIS = (
    (68, 1, 84), (71, 45, 123), (59, 82, 139), (44, 114, 142), (33, 145, 140),
    (40, 174, 128), (94, 201, 98), (173, 220, 48), (253, 231, 37),
)  # fmt: skip
_CELL = 6  # columns that a line keeps for each of its cells while it is decoded
_CHROME = 11  # lines of a view that are not canvas, on a narrow terminal


def colour(step: int, scale: int) -> tuple[int, int, int]:
    """RGB of a cell committed at forward ``step`` when the colours run from 1 to ``scale``, by the logarithm.

    So few forwards are told apart although the scale reaches to as many as there are cells.
    """
    return _shade(math.log(max(step, 1)) / math.log(scale) if scale > 1 else 0.0)


def _shade(share: float) -> tuple[int, int, int]:
    place = min(share, 1.0) * (len(_VIRIDIS) - 1)
    low = min(int(place), len(_VIRIDIS) - 2)
    red, green, blue = (
        round(a + (b - a) * (place - low)) for a, b in zip(_VIRIDIS[low], _VIRIDIS[low + 1], strict=True)
    )
    return red, green, blue


def _style(state: CanvasState, cell: int, scale: int) -> Style:
    step = state.committed[cell]
    if step == 0:
        if state.tokens[cell] != state.mask_id:
            return Style(italic=True)  # given, not generated
        if cell in state.volatile:
            return Style.parse(VOLATILE_STYLE)
        return Style(color="#ffffff", bold=True) if state.start <= cell < state.end else Style(dim=True)
    rgb = colour(step, scale)
    shade = f"rgb({rgb[0]},{rgb[1]},{rgb[2]})"
    underline = cell in state.fresh and not state.finished
    if state.tokens[cell] in state.eos_ids:
        return Style(color=shade, dim=True, underline=underline)
    bright = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] > 130
    return Style(color="#000000" if bright else "#ffffff", bgcolor=shade, bold=underline, underline=underline)


def render_canvas(
    state: CanvasState,
    glyphs: Glyphs,
    width: int,
    scale: int | None = None,
) -> list[Text]:
    """Draw a canvas.

    Args:
        state: the canvas.
        glyphs: how its tokens look.
        width: columns to wrap at; a finished row's lines also end after newline tokens.
        scale: forward at the bright end of the colours; default the number of cells.

    Returns:
        One text per line. Until the row is done a line holds the same cells whatever they read, unless they are too
        wide for it: masks that become tokens do not move the lines below.
    """
    scale = len(state.tokens) if scale is None else scale
    each = max(1, width // _CELL)
    lines, used = [Text(no_wrap=True)], 0

    def put(text: str, style: Style) -> None:
        nonlocal used
        size = cell_len(text)
        if used and used + size > width:
            lines.append(Text(no_wrap=True))
            used = 0
        lines[-1].append(text, style)
        used += size

    edge = Style.parse(EDGE_STYLE)
    for cell, text in enumerate(glyphs.cells(state.tokens)):
        if cell == state.start and not state.finished:
            put(EDGE, edge)
        if state.tokens[cell] == state.mask_id:
            text = OPEN_MASK if state.start <= cell < state.end else FAR_MASK
            text = VOLATILE_MASK if cell in state.volatile else text
        put(text, _style(state, cell, scale))
        if cell == state.end - 1 and not state.finished:
            put(EDGE, edge)
        ends = NEWLINE in text if state.finished else (cell + 1) % each == 0
        if ends and cell + 1 < len(state.tokens):
            lines.append(Text(no_wrap=True))
            used = 0
    return lines


def render_legend(scale: int, volatile: bool = False) -> Text:
    """The colours from the first forward to forward ``scale``; ``volatile``: and the mark of the volatility band."""
    text = Text("committed at forward 1 ")
    for i in range(16 if scale > 1 else 1):
        red, green, blue = _shade(i / 15)
        text.append("█", Style(color=f"rgb({red},{green},{blue})"))
    text.append(f" {scale}" if scale > 1 else "")
    text.append(f"   {EDGE}", EDGE_STYLE)
    text.append(" block  ")
    text.append(OPEN_MASK.strip(), "bold #ffffff")
    text.append(" open  ")
    text.append(FAR_MASK.strip(), "dim")
    text.append(" masked")
    if volatile:
        text.append(f"  {VOLATILE_MASK.strip()}", VOLATILE_STYLE)
        text.append(" volatile")
    return text


def render_status(state: CanvasState) -> Text:
    """NFE, tokens per forward, progress."""
    text = Text()
    text.append(f"NFE {state.step}", "bold")
    text.append(f"   content tokens per forward {state.tokens_per_forward:.2f}")
    text.append(f"   cells {state.decided}/{len(state.tokens)}   block {state.block + 1}")
    return text


def render_view(
    state: CanvasState,
    glyphs: Glyphs,
    *,
    width: int,
    title: str = "",
    prompt: str = "",
    scale: int | None = None,
    max_lines: int | None = None,
    volatile: bool = False,
) -> RenderableType:
    """The panel of one row: prompt, canvas, figures, legend; at most ``max_lines`` canvas lines, around the block.

    ``volatile``: the legend explains the volatility band.
    """
    scale = len(state.tokens) if scale is None else scale
    inner = max(8, width - 4)
    lines = render_canvas(state, glyphs, inner, scale)
    if max_lines is not None and len(lines) > max_lines:
        lines = _around_block(lines, max_lines)
    head = [Text(visible_prompt(prompt, 2 * inner), style="italic"), Text()] if prompt else []
    return Panel(
        Group(*head, *lines, Text(), render_status(state), render_legend(scale, volatile)),
        title=Text(title),
        title_align="left",
        width=width,
    )


def _around_block(lines: list[Text], count: int) -> list[Text]:
    count = max(1, count)
    edges = [i for i, line in enumerate(lines) if EDGE in line.plain]
    first = min(max(0, (edges[0] if edges else 0) - 1), len(lines) - count)
    return lines[first : first + count]


def visible_prompt(prompt: str, limit: int) -> str:
    """The prompt on screen: control characters shown, cut to ``limit`` characters."""
    text = visible(prompt.strip())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def plain_line(event: StepEvent, glyphs: Glyphs, volatile: Collection[int] = ()) -> str:
    """One forward as one line: what it added and how its block looks now, ``volatile`` cells marked if masked."""
    stop = min(event.end, len(event.tokens))
    cells = glyphs.cells(event.tokens[event.start : stop])
    shown = [
        (VOLATILE_MASK if cell in volatile else OPEN_MASK) if event.tokens[cell] == glyphs.mask_id else text
        for cell, text in zip(range(event.start, stop), cells, strict=True)
    ]
    return f"forward {event.step:>3}  block [{event.start}, {event.end})  +{len(event.cells):<3} {''.join(shown)}"


class LiveView:
    """Follows one row: pass it as ``on_step``, inside a ``with``; shows nothing of other rows."""

    def __init__(
        self,
        glyphs: Glyphs,
        *,
        console: Console,
        title: str = "",
        prompt: str = "",
        delay: float = 0.0,
        scale: int | None = None,
        row: int = 0,
    ) -> None:
        """Set up; nothing is drawn yet.

        Args:
            glyphs: how tokens look.
            console: where to draw; anything but a capable terminal gets plain lines.
            title: of the panel.
            prompt: shown above the canvas.
            delay: seconds to wait after each forward.
            scale: see :func:`render_canvas`.
            row: the row to follow.
        """
        self.glyphs, self.console, self.title, self.prompt = glyphs, console, title, prompt
        self.delay, self.scale, self.row = delay, scale, row
        #: Masks of AdaBlock's volatility band; ``None`` = nobody looks for them.
        self.volatile: frozenset[int] | None = None
        self.state: CanvasState | None = None
        self.plain = not console.is_terminal or console.is_dumb_terminal
        self._live = None if self.plain else Live(console=console, auto_refresh=False)

    def __enter__(self) -> LiveView:
        if self._live is not None:
            self._live.start()
        else:
            for line in filter(None, (self.title, visible_prompt(self.prompt, 200))):
                self._print(line)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self.state is not None:
            self._print(render_status(self.state).plain)

    def __call__(self, event: StepEvent) -> None:
        """Show one forward."""
        if event.row != self.row:
            return
        if self.state is None:
            self.state = CanvasState.before(event, self.glyphs)
            self.scale = self.scale or len(event.tokens)  # of the first canvas: it never jumps
            self._draw()
        self.state.apply(event)
        self.state.volatile = self.volatile or frozenset()
        if self.plain:
            self._print(plain_line(event, self.glyphs, self.state.volatile))
        self._draw()

    def _draw(self) -> None:
        if self._live is not None and self.state is not None:
            # The last frame stays on screen and scrolls, so it is drawn whole.
            room = None if self.state.finished else max(3, self.console.height - _CHROME)
            view = self.render(self.console.width, room)
            self._live.update(view, refresh=True)
        if self.delay:
            time.sleep(self.delay)

    def render(self, width: int, max_lines: int | None = None) -> RenderableType:
        """The panel as it is now."""
        assert self.state is not None
        return render_view(
            self.state,
            self.glyphs,
            width=min(width, 100),
            title=self.title,
            prompt=self.prompt,
            scale=self.scale,
            max_lines=max_lines,
            volatile=self.volatile is not None,
        )

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

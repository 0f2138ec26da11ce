"""``dllm-decode replay``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dllm_decode.cli.common import load, seconds, stdout
from dllm_decode.errors import DllmError
from dllm_decode.viewing.glyphs import Glyphs
from dllm_decode.viewing.live import LiveView
from dllm_decode.viewing.playback import events_of

if TYPE_CHECKING:
    from dllm_decode.engine.trace import Trace


def replay(
    file: Annotated[
        Path, typer.Argument(help="A file that 'generate --trace' or save_traces wrote.", metavar="TRACE")
    ],
    row: Annotated[int | None, typer.Option(help="Play this row only (from 0). [default: all]")] = None,
    delay: Annotated[float, typer.Option(help="Seconds to rest after each forward.", callback=seconds)] = 0.15,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Whose tokenizer to read the tokens with, if the trace lacks their text."),
    ] = None,
) -> None:
    """Play a trace in the terminal; without a terminal, print one line per forward."""
    from dllm_decode.engine.trace import load_traces

    traces = load_traces(file)
    if row is not None and not 0 <= row < len(traces):
        raise DllmError(f"--row is {row}, but {str(file)!r} holds rows 0 to {len(traces) - 1}; give one of them.")
    chosen = range(len(traces)) if row is None else [row]
    played = {i: list(events_of(traces[i])) for i in chosen}  # a damaged trace shows nothing
    tokenizer: Any = None if model is None else load(model).tokenizer
    out = stdout()
    for i in chosen:
        trace = traces[i]
        view = LiveView(
            Glyphs.of_trace(trace, tokenizer),
            console=out,
            title=_title(trace, i),
            prompt=str(trace.meta.get("prompt_text", "")),
            delay=delay if out.is_terminal else 0.0,
            scale=max(1, len(trace.steps)),
        )
        with view:
            for event in played[i]:
                view(event)


def _title(trace: Trace, row: int) -> str:
    known = [f"row {row}"]
    known += [f"{name} {trace.meta[name]}" for name in ("policy", "cache", "model") if name in trace.meta]
    return ", ".join(known)

"""``dllm-decode view``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dllm_decode.cli.common import OutputFile, load, stderr
from dllm_decode.errors import DllmError


def view(
    file: Annotated[
        Path, typer.Argument(help="A file that 'generate --trace' or save_traces wrote.", metavar="TRACE")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.", metavar="HTML")] = Path("trace.html"),
    row: Annotated[int | None, typer.Option(help="Show this row only (from 0). [default: all]")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Whose tokenizer to read the tokens with, if the trace lacks their text."),
    ] = None,
) -> None:
    """Make one HTML page that replays a trace in any browser, forward by forward, without a network."""
    from dllm_decode.engine.trace import load_traces
    from dllm_decode.viewing.viewer import build_viewer, token_pieces

    traces = load_traces(file)
    if row is not None and not 0 <= row < len(traces):
        raise DllmError(f"--row is {row}, but {str(file)!r} holds rows 0 to {len(traces) - 1}; give one of them.")
    if out.exists() and file.exists() and out.samefile(file):
        raise DllmError(f"--out is the trace {str(file)!r} itself; give another file.")
    page = OutputFile(out, "the page")
    chosen = traces if row is None else [traces[row]]
    pieces = None
    if model is not None:
        tokenizer = load(model).tokenizer
        if tokenizer is None:
            raise DllmError(f"model {model!r} has no tokenizer; leave --model out to see token ids.")
        pieces = token_pieces(chosen, tokenizer)
    page.append(build_viewer(chosen, pieces, title=f"Replay of {file.name}"))
    stderr().print(f"wrote {out}", markup=False, highlight=False, soft_wrap=True)

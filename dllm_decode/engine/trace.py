"""Traces: the initial canvas and one delta per forward; replaying them gives the final canvas (invariant 6)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dllm_decode.errors import DllmError
from dllm_decode.files import parse_json, write_whole


class TraceError(DllmError):
    """A trace file cannot be read."""


@dataclass(frozen=True)
class TraceStep:
    """What one forward changed in one row; lists run in the order in which the cells were decided.

    Attributes:
        step: 1-based forward of the row. ``block``: block index; ``start``/``end``: its cells.
        opening: the block's first forward.
        cells, old, new: cell, token before, token after. ``confidence``: probability of the proposal.
        length: the row's length after the step.
        rows, tokens: rows and query tokens this forward cost for this row.
        filled: those of ``cells`` that were filled because the row stopped, not because the rule decided them.
        inserted: ``[cell, count, token]`` of cells put in after that, before ``cell``; empty = none. All places of the
            step are those before it.
    """

    step: int
    block: int
    start: int
    end: int
    opening: bool
    cells: list[int]
    old: list[int]
    new: list[int]
    confidence: list[float]
    length: int
    rows: int
    tokens: int
    filled: list[int] = field(default_factory=list)
    inserted: list[int] = field(default_factory=list)


@dataclass
class Trace:
    """One row's decoding.

    Attributes:
        prompt: ids before the first generated cell. ``canvas``: the cells' initial ids.
        mask_id: id of a mask. ``steps``: the deltas.
        meta: anything worth keeping (policy, cache, model, settings).
    """

    prompt: list[int]
    canvas: list[int]
    mask_id: int
    steps: list[TraceStep] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)

    def replay(self, steps: int | None = None) -> list[int]:
        """The canvas after the first ``steps`` forwards (default all), cut to the row's length then."""
        canvas = list(self.canvas)
        length = len(canvas)
        for step in self.steps[:steps]:
            for cell, old, new in zip(step.cells, step.old, step.new, strict=True):
                held = canvas[cell] if 0 <= cell < len(canvas) else None
                if held != old:
                    raise TraceError(
                        f"step {step.step} says cell {cell} held {old}, but replay has {held}; the trace is damaged."
                    )
                canvas[cell] = new
            length = step.length
            if step.inserted:
                at, count, token = step.inserted
                canvas[at:] = [*[token] * count, *canvas[at:]][: length - at]
        return canvas[:length]

    def commits(self) -> dict[int, tuple[int, int]]:
        """Where each decided cell of the final canvas was last written: index of the step, index within it."""
        last: dict[int, tuple[int, int]] = {}
        for i, step in enumerate(self.steps):
            for j, (cell, new) in enumerate(zip(step.cells, step.new, strict=True)):
                if new == self.mask_id:
                    last.pop(cell, None)
                else:
                    last[cell] = (i, j)
            if step.inserted:
                at, count, _ = step.inserted
                moved = {cell + count * (cell >= at): place for cell, place in last.items()}
                last = {cell: place for cell, place in moved.items() if cell < step.length}
        return last

    def order(self) -> list[int]:
        """Cells in the order of their final commit."""
        last = self.commits()
        return sorted(last, key=last.__getitem__)

    def to_lines(self) -> list[str]:
        """JSON lines: a header, then one line per step."""
        head = {
            "steps": len(self.steps),
            "prompt": self.prompt,
            "canvas": self.canvas,
            "mask_id": self.mask_id,
            "meta": self.meta,
        }
        return [json.dumps({"trace": 1, **head}), *(json.dumps(dataclasses.asdict(s)) for s in self.steps)]


def save_traces(traces: Iterable[Trace], path: str | Path) -> None:
    """Write traces one after the other as JSON lines."""
    write_whole(path, "".join(line + "\n" for trace in traces for line in trace.to_lines()))


def load_traces(path: str | Path) -> list[Trace]:
    """Read the traces of a JSON-lines file.

    Raises:
        TraceError: the file is missing, no trace, or damaged; names the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        raise TraceError(f"cannot read trace {str(path)!r} ({why}); give a file saved with --trace.") from error
    traces: list[Trace] = []
    counts: list[Any] = []
    for number, line in enumerate(lines, 1):
        try:
            record = parse_json(line)
            if "trace" in record:
                traces.append(Trace(record["prompt"], record["canvas"], record["mask_id"], [], record["meta"]))
                counts.append(record.get("steps"))
                _check_header(traces[-1])
            else:
                step = TraceStep(**record)
                cells = len(traces[-1].canvas) + sum(s.inserted[1] for s in traces[-1].steps if s.inserted)
                _check_step(step, len(traces[-1].steps) + 1, cells)
                traces[-1].steps.append(step)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise TraceError(
                f"line {number} of {str(path)!r} is not part of a trace ({type(error).__name__}); "
                "give a file saved with --trace."
            ) from error
    if not traces:
        raise TraceError(f"{str(path)!r} holds no trace; give a file saved with --trace.")
    for number, (trace, count) in enumerate(zip(traces, counts, strict=True)):
        whole = trace.mask_id not in trace.replay() if count is None else count == len(trace.steps)
        if not whole:
            raise TraceError(f"row {number} of {str(path)!r} is cut off after {len(trace.steps)} steps.")
        trace.replay()
    return traces


def _is_whole(*values: Any) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _check_header(trace: Trace) -> None:
    """Raise what a damaged line raises."""
    lists = isinstance(trace.prompt, list) and isinstance(trace.canvas, list)
    if not lists or not isinstance(trace.meta, dict) or not _is_whole(*trace.prompt, *trace.canvas, trace.mask_id):
        raise ValueError("a header's fields have the wrong types")


def _check_step(step: TraceStep, number: int, cells: int) -> None:
    """Raise what a damaged line raises."""
    lists = (step.cells, step.old, step.new, step.confidence, step.filled)
    numbers = (step.step, step.block, step.start, step.end, step.length, step.rows, step.tokens)
    if not all(isinstance(x, list) for x in lists) or not _is_whole(*numbers, *step.cells, *step.old, *step.new):
        raise TypeError("a step's fields have the wrong types")
    if not all(isinstance(p, (int, float)) and abs(p) < 1e9 for p in step.confidence) or not _is_whole(*step.filled):
        raise TypeError("a step's fields have the wrong types")
    if not isinstance(step.inserted, list) or not _is_whole(*step.inserted) or len(step.inserted) not in (0, 3):
        raise TypeError("a step's fields have the wrong types")
    more = step.inserted[1] if step.inserted else 0
    if step.inserted and not (0 <= step.inserted[0] <= cells and more > 0):
        raise ValueError("a step puts cells beside the canvas")
    if step.step != number or len({len(x) for x in lists[:4]}) != 1 or not 0 <= step.length <= cells + more:
        raise ValueError("a step is missing, or damaged")
    if not 0 <= step.start <= step.end <= cells or not all(0 <= cell < cells for cell in (*step.cells, *step.filled)):
        raise ValueError("a step writes beside the canvas")

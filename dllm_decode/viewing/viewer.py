"""The replay of canvases in a browser: how a decoding is packed for the page, and the page of a trace file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from dllm_decode.engine.result import Ending
from dllm_decode.engine.trace import Trace, TraceError
from dllm_decode.errors import DllmError
from dllm_decode.files import write_whole
from dllm_decode.viewing.glyphs import visible
from dllm_decode.viewing.page import build_page, json_block, pack, packed_block

SCRIPTS = ("base.js", "viewer.js")


def thousandths(confidence: float, filled: bool) -> int:
    """A confidence as the page holds it: -1 minus it for a cell that was filled because the row stopped."""
    shown = round(1000 * confidence)
    return -1 - shown if filled else shown


def pack_replay(
    canvas: Sequence[int],
    mask_id: int,
    steps: Iterable[tuple[int, int, int, Sequence[int], Sequence[int], Sequence[int]]],
    inserted: Iterable[tuple[int, int, int, int]] = (),
) -> dict[str, Any]:
    """A decoding in the few plain lists that ``assets/viewer.js`` unpacks.

    Args:
        canvas: the cells' initial ids.
        mask_id: id of a mask.
        steps: per forward: block start, block end, the row's length after it, cells, their tokens, their
            confidences by :func:`thousandths`.
        inserted: index of a forward, and the cell, number and token of the cells put in after what it wrote.

    Returns:
        ``n`` cells; ``g`` given cells as ``[cell, token]``; ``b`` blocks as runs ``forwards, start, end``; ``l``
        lengths as runs ``forwards, length`` if they vary; ``i`` cells put in, if any, as ``inserted`` says; ``k``
        commits per forward; ``c``, ``v``, ``p`` their cells, tokens and confidences.
    """
    steps = list(steps)
    packed: dict[str, Any] = {
        "n": len(canvas),
        "b": [x for (s, e), run in groupby((s, e) for s, e, *_ in steps) for x in (len(list(run)), s, e)],
        "k": [len(cells) for *_, cells, _, _ in steps],
        "c": [cell for *_, cells, _, _ in steps for cell in cells],
        "v": [token for *_, tokens, _ in steps for token in tokens],
        "p": [p for *_, confidences in steps for p in confidences],
    }
    given = [[cell, token] for cell, token in enumerate(canvas) if token != mask_id]
    if given:
        packed["g"] = given
    if any(length != len(canvas) for _, _, length, *_ in steps):
        packed["l"] = [x for n, run in groupby(length for _, _, length, *_ in steps) for x in (len(list(run)), n)]
    put = [list(entry) for entry in inserted]
    if put:
        packed["i"] = put
    return packed


def pack_trace(trace: Trace) -> dict[str, Any]:
    """:func:`pack_replay` of a trace.

    Raises:
        TraceError: the trace does not replay.
    """
    trace.replay()
    steps = (
        (s.start, s.end, s.length, s.cells, s.new, _signed(s.cells, s.confidence, set(s.filled))) for s in trace.steps
    )
    inserted = [(i, *s.inserted) for i, s in enumerate(trace.steps) if s.inserted]
    return pack_replay(trace.canvas, trace.mask_id, steps, inserted)  # type: ignore[arg-type]


def _signed(cells: Sequence[int], confidence: Sequence[float], filled: set[int]) -> list[int]:
    return [thousandths(p, cell in filled) for cell, p in zip(cells, confidence, strict=True)]


def pack_record(record: Mapping[str, Any], mask_id: int) -> dict[str, Any]:
    """:func:`pack_replay` of a record of a comparison.

    A record holds what was written, not what was there before: a cell that no forward wrote was given. Its filled
    cells have confidence 0.
    """
    tokens, written = record["tokens"], {cell for step in record["steps"] for cell, _, _ in step}
    lengths = record.get("lengths")
    size = max(len(tokens), 1 + max(written, default=-1), *(end for _, end in record["blocks"]))
    canvas = [mask_id if cell in written or cell >= len(tokens) else tokens[cell] for cell in range(size)]
    if lengths:  # it grew, so nothing was given
        canvas = [mask_id] * lengths[0]
    steps = []
    for number, (step, (start, end)) in enumerate(zip(record["steps"], record["blocks"], strict=True), 1):
        # The row's length is known at the end only; a policy that shortens it does so at most once.
        length = len(tokens) if number == len(record["steps"]) else size
        length = lengths[number] if lengths else length
        signed = [thousandths(p, p == 0 and token != mask_id) for _, token, p in step]
        steps.append((start, end, length, [w[0] for w in step], [w[1] for w in step], signed))
    return pack_replay(canvas, mask_id, steps, record.get("inserted", ()))


def shown_pieces(pieces: Mapping[Any, str], used: set[int] | None = None) -> dict[str, str]:
    """Texts of tokens as the page shows them: control characters visible, only the tokens that occur."""
    return {str(key): visible(text) for key, text in pieces.items() if used is None or int(key) in used}


def token_pieces(traces: Iterable[Trace], tokenizer: Any) -> dict[int, str]:
    """The text of every token that occurs in some traces."""
    used = set().union(*(_used(trace) for trace in traces))
    return {token: str(tokenizer.decode([token], skip_special_tokens=False)) for token in sorted(used)}


def _used(trace: Trace) -> set[int]:
    return {*trace.prompt, *trace.canvas, *(token for step in trace.steps for token in step.new)}


def write_viewer(
    traces: Sequence[Trace], path: str | Path, pieces: Mapping[int, str] | None = None, title: str = ""
) -> Path:
    """Write the page that replays some traces; see :func:`build_viewer`.

    Raises:
        TraceError: a trace does not replay.
        DllmError: no trace, or a file that cannot be written.
    """
    return write_page(build_viewer(traces, pieces, title), path)


def build_viewer(traces: Sequence[Trace], pieces: Mapping[int, str] | None = None, title: str = "") -> str:
    """The page that replays some traces.

    Args:
        traces: at least one, of any model and policy.
        pieces: text of the tokens by id; default what each trace's ``meta["pieces"]`` holds, else ids are shown.
        title: of the page.

    Raises:
        TraceError: a trace does not replay, or says nonsense about its tokens.
        DllmError: no trace.
    """
    if not traces:
        raise DllmError("there is no trace to show; give at least one.")
    books: list[dict[str, str]] = []
    rows = []
    for number, trace in enumerate(traces):
        try:
            known = {int(k): str(v) for k, v in (trace.meta.get("pieces", {}) if pieces is None else pieces).items()}
            eos = [int(token) for token in trace.meta.get("eos_ids", ())]
        except (AttributeError, TypeError, ValueError) as error:
            raise TraceError(
                f"row {number} has damaged pieces or eos_ids in its meta; save the trace anew."
            ) from error
        book = shown_pieces(known, _used(trace))
        if book not in books:
            books.append(book)
        rows.append({**_row(trace, number, known, eos), "book": books.index(book)})
    return build_page(
        "view.html",
        {"title": title or "Replay of a decoding", "footer": "This page is complete in itself and loads nothing."},
        [json_block("data", {"pieces": books}), packed_block("traces", pack(rows))],
        (*SCRIPTS, "view.js"),
    )


def write_page(page: str, path: str | Path) -> Path:
    """Write a page.

    Raises:
        DllmError: it cannot be written.
    """
    path = Path(path)
    try:
        write_whole(path, page)
    except OSError as error:
        raise DllmError(
            f"cannot write {str(path)!r} ({error.strerror}); give a file in an existing folder."
        ) from error
    return path


def _row(trace: Trace, number: int, pieces: Mapping[int, str], eos: list[int]) -> dict[str, Any]:
    replay = pack_trace(trace)
    final = trace.replay()
    given = [cell < len(trace.canvas) and trace.canvas[cell] != trace.mask_id for cell in range(len(final))]
    content = Ending.of(final, given, eos).content
    forwards = len(trace.steps)
    facts: dict[str, str] = {
        name: str(trace.meta[name]) for name in ("policy", "cache", "model") if name in trace.meta
    }
    facts |= {"forwards": str(forwards), "content tokens": str(content)}
    facts["content tokens per forward"] = f"{content / max(1, forwards):.2f}"
    facts["tokens forwarded"] = str(sum(step.tokens for step in trace.steps))
    prompt = trace.meta.get("prompt_text")
    if prompt is None:
        prompt = "".join(pieces.get(token, f" {token}") for token in trace.prompt)
    head = " ".join(str(prompt).split())
    return {
        "name": f"{number}: {head[:60]}{'…' if len(head) > 60 else ''}" if head else f"row {number}",
        "facts": facts,
        "prompt": str(prompt),
        "mask": trace.mask_id,
        "eos": eos,
        "replay": replay,
    }

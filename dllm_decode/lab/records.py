"""``records.jsonl``: one JSON object per finished sample, appended share by share, safe against a kill any time."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from dllm_decode.engine.result import GenerationResult
from dllm_decode.engine.trace import Trace
from dllm_decode.errors import DllmError
from dllm_decode.files import parse_json

Record = dict[str, Any]
NAME = "records.jsonl"
WALL_FIELDS = ("wall_s", "model_s", "policy_s", "latency_s")  # all that may differ between two runs of one setting


class Ledger:
    """The finished samples of a run by their keys, in memory."""

    def __init__(self, records: Sequence[Record] = ()) -> None:
        self.records: dict[str, Record] = {record["key"]: record for record in records}

    def append(self, records: Sequence[Record]) -> None:
        """Add finished samples."""
        self.records.update((record["key"], record) for record in records)


class Journal(Ledger):
    """The finished samples of a run folder, on disk and in memory.

    One write per share, then fsync: a killed run leaves whole lines and at most one torn one, which is cut off when
    the journal is opened again.  Only one process may hold it.
    """

    def __init__(self, folder: Path) -> None:
        """Open for appending.

        Raises:
            DllmError: it cannot be written, is damaged, or another process holds it.
        """
        self.path = folder / NAME
        try:
            self._file: BinaryIO = self.path.open("ab+")
        except OSError as error:
            raise DllmError(f"cannot write {str(self.path)!r} ({error.strerror}); give another folder.") from error
        try:
            _lock(self._file, folder)
            self._file.seek(0)
            whole, records = parse(self._file.read(), self.path)
            self._file.truncate(whole)
        except DllmError:
            self._file.close()
            raise
        super().__init__(records)

    def append(self, records: Sequence[Record]) -> None:
        """Add finished samples; they are on disk when this returns."""
        self._file.write(b"".join(map(line_of, records)))
        self._file.flush()
        os.fsync(self._file.fileno())
        super().append(records)

    def arrange(self, order: Sequence[str]) -> None:
        """Bring the file into the order of these keys, if it is not (lines of it had been removed by hand)."""
        if list(self.records) == list(order):
            return
        self.records = {name: self.records[name] for name in order}
        fresh = self.path.with_suffix(".part")
        fresh.write_bytes(b"".join(line_of(record) for record in self.records.values()))
        fresh.replace(self.path)

    def close(self) -> None:
        """Let others have it."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def line_of(record: Record) -> bytes:
    """A record as it stands in the file."""
    return (json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def read_records(folder: Path) -> list[Record]:
    """The finished samples of a run folder, in order; a torn last line is left out.

    Raises:
        DllmError: none there, or damaged.
    """
    path = folder / NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DllmError(f"{str(folder)!r} holds no {NAME}; give a folder that 'compare' wrote.") from error
    return parse(data, path)[1]


def parse(data: bytes, path: Path) -> tuple[int, list[Record]]:
    """Bytes of whole lines, and their records."""
    whole = data.rfind(b"\n") + 1
    records = []
    for number, line in enumerate(data[:whole].split(b"\n")[:-1], 1):
        try:
            record = parse_json(line)
            check_record(record)
        except (ValueError, KeyError, TypeError) as error:
            raise DllmError(
                f"line {number} of {str(path)!r} is damaged; remove that line to decode its sample again."
            ) from error
        records.append(record)
    return whole, records


LARGEST = 1 << 26  #: no count, cell or token of a record is as large
_WHOLE = ("template", "sample", "seed", "correct", "strict", "n_prompt", "n_canvas", "n_until_eos", "n_content", "nfe")
_COSTS = ("full_forwards", "rows_forwarded", "tokens_forwarded", "nfe_content", "revokes", "batch")
_TEXTS = ("key", "policy", "label", "family", "cache", "task", "prompt", "answer", "expected")


def check_record(record: Any) -> None:
    """Raise KeyError, TypeError or ValueError unless this is what :func:`facts` and ``compare`` write."""

    def check(kind: type, values: Any) -> None:
        for value in values:
            # True is no count; seconds and confidences may be written as whole numbers.
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise TypeError(f"{value!r:.40} is no {kind.__name__}")
            size: Any = value
            if (kind is int and not 0 <= size < LARGEST) or (kind is float and not abs(size) < LARGEST):
                raise ValueError(f"{value!r:.40} counts nothing")

    check(int, (record[name] for name in (*_WHOLE, *_COSTS) if name != "seed"))
    if not record["n_content"] <= record["n_until_eos"] <= len(record["tokens"]):
        raise ValueError("a count that cannot be")
    if not all(record[name] > 0 for name in ("nfe", "rows_forwarded", "tokens_forwarded", "n_canvas")):
        raise ValueError("nothing was forwarded")
    if type(record["seed"]) is not int or not 0 <= record["seed"] < 2**64:
        raise TypeError(f"{record['seed']!r:.40} is no seed")
    check(float, (record[name] for name in WALL_FIELDS if name in record or name != "latency_s"))  # older ones lack it
    check(str, (record[name] for name in _TEXTS))
    check(bool, [record["early_exit"]])
    check(int, record["tokens"])
    for step, (start, end) in zip(record["steps"], record["blocks"], strict=True):
        check(int, (start, end))
        for cell, new, confidence in step:
            check(int, (cell, new))
            check(float, [confidence])


def _lock(file: BinaryIO, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # no advisory locks on this system: the user has to take care
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise DllmError(
            f"another comparison is writing to {str(folder)!r}; wait for it, or give another folder."
        ) from error


def facts(result: GenerationResult, row: int, eos_ids: Sequence[int]) -> Record:
    """The counts, the tokens and the steps of one decoded row."""
    trace, tokens, content = result.trace[row], result.sequences[row], result.content_tokens[row]
    until, rows = result.until_eos_tokens[row], len(result.sequences)
    wall, model = result.seconds / rows, result.model_seconds / rows
    mask = trace.mask_id
    return {
        "strict": int(all(token in eos_ids for token in tokens[until:])),
        "n_prompt": len(trace.prompt),
        "n_canvas": result.canvas_tokens[row],
        "n_until_eos": until,
        "n_content": content,
        "nfe": result.nfe[row],
        "full_forwards": result.full_forwards[row],
        "rows_forwarded": result.rows_forwarded[row],
        "tokens_forwarded": result.tokens_forwarded[row],
        "nfe_content": sum(
            any(cell < content and new != mask for cell, new in zip(step.cells, step.new, strict=True))
            for step in trace.steps
        ),
        "revokes": sum(step.new.count(mask) for step in trace.steps),
        "early_exit": any(cell < content for step in trace.steps for cell in step.filled),
        "wall_s": round(wall, 6),
        "model_s": round(model, 6),
        "policy_s": round(max(0.0, wall - model), 6),
        "latency_s": round(result.row_seconds[row], 6),
        "tokens": tokens,
        "steps": [
            [list(write) for write in zip(step.cells, step.new, step.confidence, strict=True)] for step in trace.steps
        ],
        "blocks": [[step.start, step.end] for step in trace.steps],
        **_growth(trace),
    }


def _growth(trace: Trace) -> Record:
    """Of a row that grew: its length before the first forward and after each, and what they put in.

    That is ``[forward, cell, count, token]``, forwards from 0.
    """
    put = [[i, *step.inserted] for i, step in enumerate(trace.steps) if step.inserted]
    lengths = [len(trace.canvas), *(step.length for step in trace.steps)]
    return {"lengths": lengths, "inserted": put} if put else {}

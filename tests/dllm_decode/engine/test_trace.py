"""Traces: replay, order of commits, JSON lines, and what is said of a damaged file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dllm_decode import Trace, TraceStep
from dllm_decode.engine.trace import TraceError, load_traces, save_traces
from tests.toys import MASK, decode, tiny

M = 9


def step(number: int, cells: list[int], old: list[int], new: list[int], length: int = 4) -> TraceStep:
    """A step that matters for replaying alone."""
    return TraceStep(number, 0, 0, 4, number == 1, cells, old, new, [0.5] * len(cells), length, 1, 6)


def revoking() -> Trace:
    """Cells 2 and 0 are committed, 2 is taken back, then 1 and 2 are committed and the row is cut to 3."""
    steps = [
        step(1, [2, 0], [M, M], [5, 6]),
        step(2, [2], [5], [M]),
        step(3, [1, 2], [M, M], [7, 8], length=3),
    ]
    return Trace([1, 2], [M] * 4, M, steps, {"policy": "test"})


def test_replay_and_order() -> None:
    trace = revoking()
    assert trace.replay(0) == [M, M, M, M]
    assert trace.replay(1) == [6, M, 5, M]
    assert trace.replay(2) == [6, M, M, M]
    assert trace.replay() == [6, 7, 8]
    assert trace.order() == [0, 1, 2]


def test_lines_round_trip(tmp_path: Path) -> None:
    result = decode(tiny("llada"), "threshold:threshold=0.5", [[1, 2], [3]], max_new_tokens=6, block_length=4)
    path = tmp_path / "trace.jsonl"
    save_traces([*result.trace, revoking()], path)
    read = load_traces(path)
    assert read == [*result.trace, revoking()]
    assert [trace.replay() for trace in read[:2]] == result.sequences
    assert read[0].mask_id == MASK and read[0].prompt == [1, 2]
    assert read[1].meta["policy"] == "threshold:threshold=0.5" and read[1].meta["row"] == 1
    head = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
    assert head["trace"] == 1 and head["canvas"] == [MASK] * 6


@pytest.mark.parametrize(
    ("cells", "old", "said"),
    [
        ([0], [7], r"step 2 says cell 0 held 7, but replay has 6; the trace is damaged"),
        ([4], [M], r"step 2 says cell 4 held 9, but replay has None; the trace is damaged"),
        ([-1], [M], r"step 2 says cell -1 held 9, but replay has None; the trace is damaged"),
    ],
)
def test_a_trace_that_does_not_fit_itself(cells: list[int], old: list[int], said: str) -> None:
    trace = Trace([], [M] * 4, M, [step(1, [0], [M], [6]), step(2, cells, old, [5])])
    with pytest.raises(TraceError, match=said):
        trace.replay()
    assert trace.replay(1) == [6, M, M, M]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no trace; give a file saved with --trace"),
        (b"hello\n", r"line 1 of .* is not part of a trace \(JSONDecodeError\)"),
        (b'{"trace": 1, "prompt": []}\n', r"line 1 of .* is not part of a trace \(KeyError\)"),
        (b'{"step": 1}\n', r"line 1 of .* is not part of a trace \((IndexError|TypeError)\)"),
        (b"[]\n", r"line 1 of .* is not part of a trace \((TypeError|IndexError)\)"),
        (b"3\n", r"line 1 of .* is not part of a trace \(TypeError\)"),
        (b"\xff\xfe\x00", r"cannot read trace .* \(not text\); give a file saved with --trace"),
    ],
)
def test_files_that_are_no_traces(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=said):
        load_traces(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"cannot read trace .*nothing\.jsonl' \(No such file or directory\)"):
        load_traces(tmp_path / "nothing.jsonl")


def test_a_damaged_step_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    lines = revoking().to_lines()
    lines[2] = lines[2].replace('"cells"', '"sells"')
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(TraceError, match=r"line 3 of .* is not part of a trace \(TypeError\)"):
        load_traces(path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e300", "null"])
def test_a_confidence_that_is_none(tmp_path: Path, number: str) -> None:
    path = tmp_path / "trace.jsonl"
    lines = revoking().to_lines()
    lines[2] = lines[2].replace("[0.5]", f"[{number}]")
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(TraceError, match="line 3 of .* is not part of a trace"):
        load_traces(path)

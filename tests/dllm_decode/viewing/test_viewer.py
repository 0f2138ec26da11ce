"""Packed replays and ``dllm-decode view``: what the page holds is what the trace says."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllm_decode.cli import main
from dllm_decode.engine.trace import Trace, TraceError, TraceStep, save_traces
from dllm_decode.errors import DllmError
from dllm_decode.viewing.viewer import build_viewer, pack_record, pack_trace, write_viewer
from tests.dllm_decode.lab.lab_records import HOSTILE
from tests.dllm_decode.lab.test_report import Page, unpack

META = {
    "policy": "threshold",
    "cache": "none",
    "model": "toy",
    "eos_ids": [1],
    "pieces": {"0": "?", "1": "!", "5": "a\n"},
}


@st.composite
def traces(draw):
    """Any decoding: given cells, revokes, blocks, a row that gets shorter, filled cells; mask id 0."""
    canvas = draw(st.lists(st.sampled_from([0, 0, 0, 7]), min_size=1, max_size=12))
    now, length, steps = list(canvas), len(canvas), []
    for number in range(1, draw(st.integers(0, 6)) + 1):
        cells = draw(st.lists(st.integers(0, len(canvas) - 1), unique=True, max_size=4))
        new = [draw(st.sampled_from([0, 1, 5, 9])) for _ in cells]
        filled = [cell for cell, token in zip(cells, new, strict=True) if token and draw(st.booleans())]
        start = draw(st.integers(0, len(canvas) - 1))
        end = draw(st.integers(start, len(canvas)))
        length = draw(st.integers(1, length))
        confidence = [draw(st.floats(0, 1)) for _ in cells]
        old = [now[cell] for cell in cells]
        steps.append(TraceStep(number, 0, start, end, False, cells, old, new, confidence, length, 1, 4, filled))
        for cell, token in zip(cells, new, strict=True):
            now[cell] = token
    return Trace([3, 4], canvas, 0, steps, dict(META))


@given(traces())
def test_a_packed_trace_is_the_trace(trace):
    packed = json.loads(json.dumps(pack_trace(trace)))
    canvases = unpack(packed)
    lengths = [n for count, n in zip(packed["l"][::2], packed["l"][1::2], strict=True) for _ in range(count)] if (
        "l" in packed
    ) else [len(trace.canvas)] * len(trace.steps)  # fmt: skip
    for upto, length in zip(range(1, len(trace.steps) + 1), lengths, strict=True):
        assert canvases[upto][:length] == trace.replay(upto)
    assert canvases[0] == trace.canvas
    blocks = [packed["b"][i : i + 3] for i in range(0, len(packed["b"]), 3)]
    assert [(s, e) for n, s, e in blocks for _ in range(n)] == [(step.start, step.end) for step in trace.steps]
    filled = [cell in step.filled for step in trace.steps for cell in step.cells]
    assert [p < 0 for p in packed["p"]] == filled
    shown = [p if p >= 0 else -1 - p for p in packed["p"]]
    assert shown == [round(1000 * p) for step in trace.steps for p in step.confidence]


def test_a_record_that_says_less_is_packed_too():
    # Cell 3 was given, cell 4 was decided and then lay behind the row's new end.
    record = {
        "tokens": [5, 6, 1, 9],
        "steps": [[[0, 5, 0.9], [4, 8, 0.4]], [[1, 6, 0.5], [2, 1, 0.0]]],
        "blocks": [[0, 6], [0, 6]],
    }
    packed = pack_record(record, mask_id=0)
    assert packed["n"] == 6
    assert packed["g"] == [[3, 9]]
    assert packed["l"] == [1, 6, 1, 4]
    assert unpack(packed)[-1][:4] == record["tokens"]
    assert packed["p"] == [900, 400, 500, -1]


def rows_of(page: Page):
    return json.loads(gzip.decompress(base64.b64decode(page.blocks["traces"])))


def toy(prompt_text: str = "hello") -> Trace:
    steps = [
        TraceStep(1, 0, 0, 2, True, [0], [0], [5], [0.75], 3, 1, 5),
        TraceStep(2, 0, 0, 2, False, [1, 2], [0, 0], [1, 1], [0.5, 0.0], 3, 1, 5, [2]),
    ]
    return Trace([5, 9], [0, 0, 0], 0, steps, {**META, "prompt_text": prompt_text})


def test_view_writes_a_page(tmp_path, capsys):
    save_traces([toy(HOSTILE), toy()], tmp_path / "t.jsonl")
    out = tmp_path / "t.html"
    assert main(["view", str(tmp_path / "t.jsonl"), "-o", str(out)]) == 0
    assert capsys.readouterr().out == ""
    page = Page(out.read_text())
    assert "img" not in [tag for tag, _ in page.tags]
    assert "Replay of t.jsonl" in "".join(page.texts)
    first, second = rows_of(page)
    assert first["prompt"] == HOSTILE
    assert second["replay"] == pack_trace(toy())
    assert second["facts"] == {
        "policy": "threshold",
        "cache": "none",
        "model": "toy",
        "forwards": "2",
        "content tokens": "1",
        "content tokens per forward": "0.50",
        "tokens forwarded": "10",
    }
    assert page.data()["pieces"] == [{"0": "?", "1": "!", "5": "a↵"}]


def test_view_of_one_row_and_given_pieces(tmp_path):
    save_traces([toy("one"), toy("two")], tmp_path / "t.jsonl")
    assert main(["view", str(tmp_path / "t.jsonl"), "-o", str(tmp_path / "t.html"), "--row", "1"]) == 0
    assert [row["prompt"] for row in rows_of(Page((tmp_path / "t.html").read_text()))] == ["two"]
    bare = toy()
    del bare.meta["prompt_text"], bare.meta["pieces"]
    path = write_viewer([bare], tmp_path / "b.html", {5: "x", 77: "unused"}, "T")
    page = Page(path.read_text())
    assert page.data()["pieces"] == [{"5": "x"}]
    assert rows_of(page)[0]["prompt"] == "x 9"  # what has no text is shown by its number


@pytest.mark.parametrize("arguments, sentence", [
    (["none.jsonl"], "cannot read trace"),
    (["t.jsonl", "--row", "2"], "holds rows 0 to 0"),
    (["t.jsonl", "--row", "-1"], "holds rows 0 to 0"),
    (["t.jsonl", "-o", "t.jsonl"], "is the trace"),
    (["t.jsonl", "-o", "no/where.html"], "cannot write the page"),
    (["damaged.jsonl"], "the trace is damaged"),
    (["strange.jsonl"], "damaged pieces"),
])  # fmt: skip
def test_wrong_input_ends_in_one_sentence(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    save_traces([toy()], "t.jsonl")
    damaged = toy()
    damaged.steps.append(TraceStep(3, 0, 0, 2, False, [0], [0], [6], [0.5], 3, 1, 5))
    save_traces([damaged], "damaged.jsonl")
    strange = toy()
    strange.meta["pieces"] = ["a"]
    save_traces([strange], "strange.jsonl")
    assert main(["view", *arguments]) == 2
    said = capsys.readouterr()
    assert sentence in said.err and said.err.count("\n") == 1 and said.out == ""
    assert not (tmp_path / "trace.html").exists()


def test_nothing_to_show():
    with pytest.raises(DllmError, match="no trace"):
        build_viewer([])
    strange = toy()
    strange.meta["eos_ids"] = "x"
    with pytest.raises(TraceError, match="row 0"):
        build_viewer([strange])


def test_it_needs_no_torch():
    code = "import sys, dllm_decode.cli.view, dllm_decode.viewing.viewer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

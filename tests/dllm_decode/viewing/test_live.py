"""The live view: what it draws, that it redraws in place, that it is plain without a terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from dllm_decode import DiffusionSampler, StepEvent
from dllm_decode.engine.trace import Trace, load_traces
from dllm_decode.tasks.tokenizer import EOS_ID, MASK_ID, decode, encode
from dllm_decode.viewing.glyphs import Glyphs, annotate, visible
from dllm_decode.viewing.live import (
    EDGE,
    FAR_MASK,
    OPEN_MASK,
    LiveView,
    colour,
    plain_line,
    render_canvas,
    render_legend,
    render_status,
    render_view,
)
from dllm_decode.viewing.playback import CanvasState, events_of, frames
from tests.dllm_decode.answering import answering, codec

GLYPHS = Glyphs(lambda ids: decode(list(ids)), MASK_ID, (EOS_ID,))
PROMPT, ANSWER = "sort: b a", " a b\n c d"


def event(tokens: list[int], cells: tuple[int, ...], step: int, start: int = 0, end: int | None = None) -> StepEvent:
    return StepEvent(
        row=0,
        step=step,
        block=0,
        start=start,
        end=len(tokens) if end is None else end,
        opening=step == 1,
        tokens=tuple(tokens),
        cells=cells,
        values=tuple(tokens[c] for c in cells if c < len(tokens)),
        confidence=(1.0,) * len(cells),
        settled=0,
        finished=False,
    )


def run(policy: str = "topk:k=2", **settings):
    """Events, trace and result of a real decoding."""
    sampler = DiffusionSampler(answering({PROMPT: ANSWER}), policy)
    events: list[StepEvent] = []
    result = sampler.generate(PROMPT, on_step=events.append, **({"max_new_tokens": 16, "block_length": 6} | settings))
    return events, result.trace[0], result


def test_state_follows_commits_revokes_and_cuts():
    a, b = encode(" a"), encode(" b")
    first = event([*a, MASK_ID, *b, EOS_ID], (0, 2, 3), 1)
    state = CanvasState.before(first, GLYPHS)
    assert state.tokens == [MASK_ID] * 4 and state.decided == 0 and state.content == 0
    state.apply(first)
    assert state.committed == [1, 0, 1, 1] and state.decided == 3
    assert state.content == 2 and state.tokens_per_forward == 2.0  # the end token is no content
    revoked = replace(first, step=2, cells=(0,), values=(MASK_ID,), tokens=(MASK_ID, MASK_ID, *b, EOS_ID))
    state.apply(revoked)
    assert state.committed == [0, 0, 1, 1] and state.fresh == {0}
    state.apply(replace(revoked, step=3, cells=(0,), values=(a[0],), tokens=(a[0], MASK_ID, b[0])))
    assert state.committed == [3, 0, 1] and len(state.tokens) == 3


def test_final_figures_are_those_of_the_result():
    events, trace, result = run()
    state = CanvasState.before(events[0], GLYPHS)
    for one in events:
        state.apply(one)
    assert state.tokens == result.sequences[0] and state.finished
    assert state.step == result.nfe[0] and state.content == result.content_tokens[0]
    assert state.tokens_per_forward == pytest.approx(result.tokens_per_forward[0])
    status = render_status(state).plain
    assert status.startswith(f"NFE {result.nfe[0]} ") and f"{result.tokens_per_forward[0]:.2f}" in status
    assert all(1 <= step <= result.nfe[0] for step in state.committed)


@pytest.mark.parametrize("policy", ["topk:k=1", "topk:k=3", "threshold"])
def test_events_of_a_trace_are_the_events_of_the_run(policy):
    events, trace, _ = run(policy)
    assert list(events_of(trace)) == events


def test_frames_show_chosen_forwards():
    events, trace, _ = run()
    states = frames(events, GLYPHS, [1, len(events)])
    assert [s.step for s in states] == [1, len(events)]
    assert states[0].tokens == trace.replay(1) and states[1].tokens == trace.replay()


def test_canvas_marks_block_masks_and_newlines():
    tokens = [*encode(" a\n"), MASK_ID, MASK_ID, MASK_ID, EOS_ID]
    state = CanvasState(tokens, [1, 1, 0, 0, 0, 2], MASK_ID, frozenset({EOS_ID}), start=2, end=4, step=2)
    lines = render_canvas(state, GLYPHS, 40)
    assert [line.plain for line in lines] == [f" a↵{EDGE}{OPEN_MASK}{OPEN_MASK}{EDGE}{FAR_MASK}∎"]
    state.finished = True
    assert [line.plain for line in render_canvas(state, GLYPHS, 40)] == [" a↵", f"{OPEN_MASK * 2}{FAR_MASK}∎"]


def test_tokens_in_the_place_of_masks_move_no_line():
    events, _, _ = run("topk:k=3", max_new_tokens=32, block_length=32)
    state = CanvasState.before(events[0], GLYPHS)
    for one in events[:-1]:
        state.apply(one)
        counts = [len(GLYPHS.cells(state.tokens[i : i + 4])) for i in range(0, 32, 4)]
        assert len(render_canvas(state, GLYPHS, 24)) == len(counts) == 8


def test_the_legend_never_jumps():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=90, color_system=None, _environ={})
    sampler = DiffusionSampler(answering({PROMPT: ANSWER}), "topk:k=2")
    with LiveView(Glyphs.of_model(sampler.model), console=console) as view:
        sampler.generate(PROMPT, on_step=view, max_new_tokens=16, block_length=6)
    assert set(re.findall(r"forward 1 █+ (\d+)", file.getvalue())) == {"16"}
    assert render_legend(1).plain.startswith("committed at forward 1 █  ")


def styles_of(state: CanvasState, **options) -> list:
    """Style of each character of the only line."""
    (line,) = render_canvas(state, GLYPHS, 200, **options)
    console = Console(file=io.StringIO(), color_system="truecolor", width=200)
    return [s.style for s in line.render(console, end="") for _ in s.text if not s.control]


def test_cells_are_coloured_by_step():
    tokens = encode(" a b c d")
    state = CanvasState(tokens, [1, 8, 1, 0], MASK_ID, frozenset(), start=0, end=0, step=8, finished=True)
    styles = styles_of(state)
    first, last, again, given_cell = (styles[2 * i + 1] for i in range(4))
    assert first.bgcolor.triplet == colour(1, 8) == (68, 1, 84)
    assert last.bgcolor.triplet == colour(8, 8) == (253, 231, 37)
    assert again.bgcolor == first.bgcolor and given_cell.bgcolor is None  # given cells were never committed
    assert first.color.triplet == (255, 255, 255) and last.color.triplet == (0, 0, 0)  # readable on both ends
    half = styles_of(state, scale=15)[3]
    assert half.bgcolor.triplet == colour(8, 15) != colour(8, 8)


def test_colours_are_sequential():
    def lightness(step: int) -> float:
        red, green, blue = colour(step, 64)
        return 0.299 * red + 0.587 * green + 0.114 * blue

    shades = [lightness(step) for step in range(1, 65)]
    assert shades == sorted(shades) and len(set(shades)) == 64
    assert "forward 1 " in render_legend(32).plain and " 32" in render_legend(32).plain


@given(
    st.lists(st.sampled_from([MASK_ID, EOS_ID, *encode(' a b\n{"k":12 word'), *encode("é漢🙂")]), max_size=60),
    st.integers(4, 50),
    st.integers(0, 60),
    st.integers(0, 60),
)
def test_wrapping_loses_nothing_and_fits(tokens, width, start, length):
    end = min(start + length, len(tokens))
    state = CanvasState(tokens, [i % 9 for i in range(len(tokens))], MASK_ID, frozenset({EOS_ID}), start, end, step=8)
    lines = [line.plain for line in render_canvas(state, GLYPHS, width)]
    widest = max([cell_len(text) for text in GLYPHS.cells(tokens)], default=0)
    assert all(cell_len(line) <= max(width, widest) for line in lines)
    texts = GLYPHS.cells(tokens)
    expected = "".join(
        (OPEN_MASK if start <= i < end else FAR_MASK) if token == MASK_ID else text
        for i, (token, text) in enumerate(zip(tokens, texts, strict=True))
    )
    assert "".join(lines).replace(EDGE, "") == expected


def test_characters_spelled_in_bytes_are_joined():
    assert GLYPHS.text(encode("né🙂 a")) == "né🙂 a"
    half = encode("é")
    assert GLYPHS.cells([half[0], MASK_ID]) != GLYPHS.cells(half)  # half a character is not shown as a whole one


def test_control_characters_cannot_reach_the_terminal():
    shown = visible("a\x1b[31m\r\x07\x9b\tb\n")
    assert shown == "a␛[31m␍␇\ufffd⇥b↵"
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", GLYPHS.text(encode("\x1b[2J\x07")))


def test_annotated_trace_shows_without_a_model(tmp_path):
    _, trace, _ = run()
    model = answering({PROMPT: ANSWER})
    annotate(trace, model)
    (tmp_path / "t.jsonl").write_text("".join(line + "\n" for line in trace.to_lines()))
    (read,) = load_traces(tmp_path / "t.jsonl")
    glyphs = Glyphs.of_trace(read)
    assert glyphs.text(read.replay()).startswith(visible(ANSWER)) and "∎" in glyphs.text(read.replay())
    assert PROMPT in read.meta["prompt_text"]
    assert Glyphs.of_trace(read, codec()).text(read.replay()) == glyphs.text(read.replay())
    bare = Trace(read.prompt, read.canvas, read.mask_id, read.steps)
    assert Glyphs.of_trace(bare).text([5, 7]) == " 5 7"


def watch(terminal: bool, height: int = 30, policy: str = "topk:k=2", **settings) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=60, height=height, color_system=None, _environ={})
    sampler = DiffusionSampler(answering({PROMPT: ANSWER}), policy)
    with LiveView(Glyphs.of_model(sampler.model), console=console, title="a title", prompt=PROMPT) as view:
        sampler.generate(PROMPT, on_step=view, **({"max_new_tokens": 16, "block_length": 6} | settings))
    return file.getvalue()


def test_terminal_redraws_in_place():
    out = watch(terminal=True)
    assert "\x1b[1A" in out  # the cursor goes up and the panel is drawn over
    last = out.split("\x1b[1A")[-1]
    assert "a title" in last and " a b↵" in last and " c d∎" in last and EDGE not in last.split("committed")[0]
    assert out.count("NFE 1 ") >= 1 and out.rstrip("\n").endswith("\x1b[?25h")  # the cursor is shown again


def test_plain_lines_without_a_terminal():
    out = watch(terminal=False)
    assert "\x1b" not in out
    lines = out.splitlines()
    _, trace, result = run()
    assert lines[:2] == ["a title", PROMPT]
    assert len(lines) == 3 + len(trace.steps) and lines[-1].startswith(f"NFE {result.nfe[0]} ")
    assert re.fullmatch(r"forward +1  block \[0, 6\)  \+2 +.*", lines[2]) and OPEN_MASK in lines[2]


def test_high_canvas_is_windowed_around_the_block_until_the_end():
    out = watch(terminal=True, height=16, policy="topk:k=8", max_new_tokens=400, block_length=400, early_stop=False)
    drawn = [frame.count("\n") for frame in out.split("\x1b[1A\x1b[2K\x1b[1A")]
    assert max(drawn[:-1]) <= 16 < drawn[-1]  # the last frame is whole
    state = CanvasState([MASK_ID] * 400, [0] * 400, MASK_ID, frozenset(), start=300, end=304)
    console = Console(file=io.StringIO(), width=90)
    console.print(render_view(state, GLYPHS, width=90, max_lines=5))
    shown = console.file.getvalue()
    assert EDGE in shown.split("NFE")[0] and len(shown.splitlines()) == 5 + 5


def test_other_rows_are_ignored():
    file = io.StringIO()
    with LiveView(GLYPHS, console=Console(file=file, force_terminal=False)) as view:
        view(replace(event([MASK_ID], (), 1), row=1))
    assert file.getvalue() == ""


def test_plain_line_of_a_cut_row():
    line = plain_line(replace(event(encode(" a b"), (1,), 3), start=1, end=8), GLYPHS)
    assert line.endswith(" b") and "[1, 8)" in line

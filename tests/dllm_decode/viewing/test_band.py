"""AdaBlock's volatility band in the live view, and what listeners of predictions get to see."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from rich.console import Console

import dllm_decode.models
from dllm_decode import DiffusionSampler, GenerationConfig
from dllm_decode.cli import main
from dllm_decode.viewing.band import BandWatch
from dllm_decode.viewing.glyphs import Glyphs
from dllm_decode.viewing.live import (
    FAR_MASK,
    OPEN_MASK,
    VOLATILE_MASK,
    LiveView,
    plain_line,
    render_canvas,
    render_legend,
)
from dllm_decode.viewing.playback import CanvasState
from samplers import volatility_band
from tests.dllm_decode.viewing.test_live import event
from tests.toys import FAMILIES, MASK, scene, tiny

GLYPHS = Glyphs(None, MASK)


def test_only_masks_are_drawn_apart() -> None:
    state = CanvasState([7, MASK, MASK, MASK], [1, 0, 0, 0], MASK, frozenset(), start=0, end=3, step=1)
    state.volatile = frozenset({0, 1, 3})
    (line,) = render_canvas(state, GLYPHS, 40)
    assert line.plain.replace("┃", "") == f" 7{VOLATILE_MASK}{OPEN_MASK}{VOLATILE_MASK}"
    state.volatile = frozenset()
    assert render_canvas(state, GLYPHS, 40)[0].plain.replace("┃", "") == f" 7{OPEN_MASK}{OPEN_MASK}{FAR_MASK}"
    one = event([7, MASK, MASK], (0,), 1)
    assert plain_line(one, GLYPHS, {0, 2}).endswith(f" 7{OPEN_MASK}{VOLATILE_MASK}")
    assert "volatile" in render_legend(8, volatile=True).plain and "volatile" not in render_legend(8).plain


def watching(row: int = 0) -> LiveView:
    return LiveView(GLYPHS, console=Console(file=io.StringIO()), row=row)


def test_the_watch_follows_one_row_and_keeps_what_a_forward_does_not_cover() -> None:
    live = watching(row=4)
    watch = BandWatch(live)
    assert live.volatile == frozenset()
    view, prediction = scene([[0.9, 0.5, 0.05, 0.2, None], [0.3, 0.3, 0.3, 0.3, 0.3]])
    watch([4, 7], view, prediction)
    assert live.volatile == {1, 3}
    watch([7, 9], view, prediction)  # other rows
    assert live.volatile == {1, 3}
    prediction.predicted[1, 2:] = False
    watch([7, 4], view, prediction)
    assert live.volatile == {0, 1, 3}  # cell 3 is not covered: what was said before holds
    wide, wanted = watching(), BandWatch
    wanted(wide, high=1.0, low=0.9)([0], *scene([[0.9, 0.5]]))
    assert wide.volatile == {0}


@pytest.mark.parametrize("cache", ["none", "dual"])
@pytest.mark.parametrize("policy", ["threshold:threshold=0.6", "freedave:drafts=3", "topk:k=2+eosstop"])
@pytest.mark.parametrize("family", FAMILIES)
def test_listeners_see_what_the_policy_decides_on(family: str, policy: str, cache: str) -> None:
    """Each forward of each row once, with the masks as they were before it; and decoding does not change."""
    config = GenerationConfig(max_new_tokens=8, block_length=4, early_stop=False)
    sampler = DiffusionSampler(tiny(family), policy, cache, config)
    prompts = [[1, 2, 3], [4], [5, 6]]
    plain = sampler.generate(prompts)
    heard: dict[int, int] = {}

    def listen(rows: Any, view: Any, prediction: Any) -> None:
        assert len(rows) == len(view.start)
        said = prediction.pick(0)
        assert said.token.shape == view.tokens.shape
        for i, row in enumerate(rows):
            before = plain.trace[row].replay(heard.get(row, 0))
            assert view.tokens[i].tolist() == before
            heard[row] = heard.get(row, 0) + 1
        assert bool((volatility_band(said, view) <= view.masked).all())

    result = sampler.generate(prompts, on_prediction=listen)
    assert result.sequences == plain.sequences and [heard[row] for row in range(3)] == plain.nfe


@pytest.fixture
def undecided(monkeypatch: pytest.MonkeyPatch, random_model: Any) -> None:
    """The commands use a model that is sure of nothing."""
    monkeypatch.setattr(dllm_decode.models, "load_model", lambda name, **_: random_model)


def test_the_option_marks_cells_and_changes_nothing_else(undecided: None, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["generate", "sort: b a", "--live", "--policy", "adablock+topk:k=2", "--max-new-tokens", "16"]
    assert main(flags) == 0
    plain = capsys.readouterr().out
    assert main([*flags, "--band"]) == 0
    marked = capsys.readouterr().out
    assert VOLATILE_MASK not in plain and VOLATILE_MASK in marked
    assert marked.replace(VOLATILE_MASK, OPEN_MASK) == plain


def test_the_demo_marks_them_too(undecided: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--tasks", "sort", "--policy", "topk:k=4", "--band"]) == 0
    assert VOLATILE_MASK in capsys.readouterr().out


def test_without_a_live_view_there_is_nothing_to_mark(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "sort: b a", "--no-live", "--band"]) == 2
    assert "--band marks cells of the live view, which is off; add --live." in capsys.readouterr().err


def test_the_last_frame_has_no_marks_left() -> None:
    """In a terminal the panel is drawn over, with the mark explained, until nothing is masked."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=90, height=30, color_system=None, _environ={})
    torch.manual_seed(0)
    sampler = DiffusionSampler(tiny("llada"), "topk:k=2", config=GenerationConfig(max_new_tokens=12, early_stop=False))
    with LiveView(Glyphs.of_model(sampler.model), console=console) as live:
        sampler.generate([1, 2, 3], on_step=live, on_prediction=BandWatch(live))
    shown = file.getvalue()
    last = shown.split("\x1b[1A")[-1]
    assert VOLATILE_MASK in shown and "volatile" in last and VOLATILE_MASK not in last.split("committed")[0]

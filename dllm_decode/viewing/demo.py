"""A few prompts under two policies: what the live view shows, the closing table, and a picture of both."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.events import StepEvent
from dllm_decode.engine.result import GenerationResult
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.tasks import TASKS, Sample, score
from dllm_decode.viewing.glyphs import Glyphs
from dllm_decode.viewing.live import render_view
from dllm_decode.viewing.playback import events_of, frames
from samplers import Prediction, View

PICTURE_WIDTH = 84


@dataclass(frozen=True)
class Answer:
    """One policy's decoding of one prompt; ``result`` holds a single row."""

    policy: str
    result: GenerationResult
    correct: bool

    @property
    def text(self) -> str:
        """The answer, cut at its first end token."""
        return "" if self.result.texts is None else self.result.texts[0]


@dataclass(frozen=True)
class Shown:
    """A prompt and its answers, the watched policy's first."""

    sample: Sample
    answers: tuple[Answer, Answer]


class Demo:
    """Decodes prompts under a policy and under another one to compare with."""

    def __init__(self, model: DenoisingModel, policy: str, against: str, cache: str, config: GenerationConfig) -> None:
        """Build both samplers, so that whatever is wrong is found before anything is shown."""
        self.names = (policy, against)
        self.samplers = tuple(DiffusionSampler(model, name, cache, config) for name in self.names)
        self.glyphs = Glyphs.of_model(model)

    def run(
        self,
        sample: Sample,
        on_step: Callable[[StepEvent], None],
        on_prediction: Callable[[Sequence[int], View, Prediction], None] | None = None,
    ) -> Shown:
        """Decode once for the viewer, then once per policy with nobody watching, which is what the table times."""
        canvas = TASKS[sample.task].max_new_tokens
        self.samplers[0].generate(sample.prompt, max_new_tokens=canvas, on_step=on_step, on_prediction=on_prediction)
        answers = []
        for name, sampler in zip(self.names, self.samplers, strict=True):
            result = sampler.generate(sample.prompt, max_new_tokens=canvas)
            right = result.texts is not None and score(sample, result.texts[0])
            answers.append(Answer(name, result, right))
        return Shown(sample, (answers[0], answers[1]))


def table(shown: Sequence[Shown]) -> RenderableType:
    """Both policies side by side, and the saving in one line."""
    found = Table(title="the same prompts, watched policy first", title_justify="left")
    found.add_column("task")
    found.add_column("policy")
    for head in ("NFE", "tokens per\nforward", "seconds"):
        found.add_column(head, justify="right")
    found.add_column("answer", overflow="fold")
    found.add_column("")
    for one in shown:
        for i, answer in enumerate(one.answers):
            found.add_row(
                one.sample.task if i == 0 else "",
                answer.policy,
                str(answer.result.nfe[0]),
                f"{answer.result.tokens_per_forward[0]:.2f}",
                f"{answer.result.seconds:.2f}",
                Text("\n".join(line.strip() for line in answer.text.strip().split("\n"))),
                Text("correct", "green") if answer.correct else Text("wrong", "red"),
            )
        found.add_section()
    first, second = (sum(one.answers[i].result.nfe[0] for one in shown) for i in (0, 1))
    names = [answer.policy for answer in shown[0].answers]
    saving = f"{names[0]} needed {first} forwards, {names[1]} {second}: {second / first:.1f} times as many"
    return Group(found, Text(saving))


def picture(shown: Sequence[Shown], glyphs: Glyphs) -> str:
    """SVG of the last prompt after a third of its forwards, after two thirds and at the end, and the table."""
    one = shown[-1]
    trace = one.answers[0].result.trace[0]
    events = list(events_of(trace))
    count = len(events)
    at = sorted({max(1, count // 3), max(1, 2 * count // 3), count})
    console = Console(
        record=True, width=PICTURE_WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    for number, state in zip(at, frames(events, glyphs, at), strict=True):
        console.print(
            render_view(
                state,
                glyphs,
                width=PICTURE_WIDTH,
                title=f"{one.sample.task}: forward {number} of {count}, policy {one.answers[0].policy}",
                prompt=one.sample.prompt if number == at[0] else "",
                scale=count,
            )
        )
    console.print(table(shown))
    drawn = console.export_svg(title="dllm-decode demo", unique_id="dllm")
    # Without its web fonts the picture needs no network; every viewer has a monospaced font.
    return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)

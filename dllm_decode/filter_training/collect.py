"""Labels for Learn2PD's filter: replay a model's own greedy answers with the EGP oracle and note what was right.

Any model and any prompts; interrupted runs continue where they stopped.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.result import GenerationResult
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.errors import DllmError
from dllm_decode.files import write_whole
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.lab.problems import task_names
from dllm_decode.models import NativeModel
from dllm_decode.tasks import TASKS, Sample
from dllm_decode.tasks import samples as draw
from filters import FEATURES, FilterError, Records
from filters.features import block_cells, block_features
from samplers import EGP, Decision, Prediction, Threshold, View
from samplers.contract.memory import Memory
from samplers.learn2pd import cell_values

#: One cell per forward, the most confident one: the reference output.
STATIC = Threshold(2.0)


@dataclass(frozen=True)
class Ask:
    """One prompt to decode.

    Attributes:
        prompt: text, chat messages or token ids. ``cells``: to generate. ``sample``: the task's, if it can be scored.
    """

    prompt: Any
    cells: int
    sample: Sample | None = None


@dataclass(frozen=True)
class AskSets:
    """Prompts to train on, to choose the epoch and the threshold by, and to report on; no prompt is in two of them."""

    train: list[Ask]
    valid: list[Ask]
    test: list[Ask]


def asks_of_tasks(tasks: str | Sequence[str], samples: int, seed: int = 0) -> AskSets:
    """Bundled problems: ``samples`` per task to train on and a quarter of that to validate and to test, by split.

    Raises:
        DllmError: unknown tasks, or less than 4 samples.
    """
    if samples < 4:
        raise DllmError(f"samples is {samples}; give at least 4 per task, so that a quarter of them can be held out.")

    def drawn(split: str, count: int) -> list[Ask]:
        names = task_names(tasks)
        return [Ask(s.prompt, TASKS[name].max_new_tokens, s) for name in names for s in draw(name, split, count, seed)]

    return AskSets(drawn("train", samples), drawn("valid", samples // 4), drawn("test", samples // 4))


def asks_of_prompts(prompts: Sequence[Any], max_new_tokens: int, seed: int = 0) -> AskSets:
    """Any prompts, shuffled and split 80 : 10 : 10.

    Raises:
        DllmError: fewer than 10.
    """
    if len(prompts) < 10:
        raise DllmError(f"{len(prompts)} prompts were given; give at least 10, so that a tenth can be held out twice.")
    asks = [Ask(prompt, max_new_tokens) for prompt in prompts]
    Random(seed).shuffle(asks)
    held = len(asks) // 10
    return AskSets(asks[2 * held :], asks[:held], asks[held : 2 * held])


def contents(result: GenerationResult) -> list[list[int]]:
    """Each row's generated ids before its first end-of-text token."""
    return [row[:n] for row, n in zip(result.sequences, result.content_tokens, strict=True)]


def batches(asks: Sequence[Ask], size: int) -> Iterator[list[Ask]]:
    """Batches of prompts with equal canvases and similar lengths."""
    for cells in sorted({ask.cells for ask in asks}):
        same = sorted((ask for ask in asks if ask.cells == cells), key=lambda ask: len(ask.prompt))
        for at in range(0, len(same), size):
            yield same[at : at + size]


@dataclass(frozen=True)
class RecordingEGP(EGP):
    """EGP that notes, at each forward, what a filter would have read and what was right."""

    width: int = 32
    feature: str = "confidence"
    sink: list[Records] = field(default_factory=list, repr=False, compare=False)

    @property
    def needs(self) -> frozenset[str]:  # noqa: D102
        return frozenset({"entropy"} if self.feature == "negative_entropy" else ())

    def decide(self, view: View, prediction: Prediction, memory: Any) -> tuple[Decision, Memory]:  # noqa: D102
        index, inside = block_cells(view.start, view.end, self.width, view.tokens.shape[1])
        right = (prediction.token == memory.reference).gather(1, index) & inside
        values = block_features(cell_values(self.feature, view, prediction), view.start, view.end, self.width)
        record = Records(values, right, prediction.open.gather(1, index) & inside, inside)
        self.sink.append(Records(*(x.cpu() for x in (record.features, record.right, record.open, record.inside))))
        return super().decide(view, prediction, memory)


def collect(
    model: DenoisingModel,
    asks: Sequence[Ask],
    folder: Path,
    config: GenerationConfig,
    *,
    cache: str = "none",
    feature: str = "confidence",
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> Records:
    """Decode each prompt statically, replay it with the oracle, and keep one record per forward and row.

    Answers that end before their canvas does are replayed twice: on the whole canvas, and on one that ends with them.

    Args:
        model: whose answers and confidences.
        asks: the prompts.
        folder: one file per batch is kept there; those that exist are not made again.
        config: greedy; ``block_length`` is the filter's width.
        cache: of both decodings.
        feature: see :data:`filters.FEATURES`.
        batch_size: rows per batch.
        progress: called with the number of prompts done since the last call.

    Raises:
        DllmError: the configuration cannot be used, or the folder holds records of other prompts or settings.
    """
    width = config.block_length
    if width is None or config.temperature > 0:
        raise DllmError("records are collected greedily in blocks; set block_length and temperature=0.")
    if feature not in FEATURES:
        raise DllmError(f"feature is {feature!r}; choose one of {', '.join(FEATURES)}.")
    _claim(folder, _about(model, asks, config, cache, feature, batch_size))
    parts = []
    for number, batch in enumerate(batches(asks, batch_size)):
        shard = folder / f"{number:05d}.safetensors"
        if shard.exists():
            try:
                parts.append(Records.load(shard))
            except FilterError as error:
                raise DllmError(str(error)) from error
        else:
            parts.append(_replay(model, batch, config, cache, feature, width))
            parts[-1].save(shard)
        if progress is not None:
            progress(len(batch))
    return Records.cat(parts)


def _replay(
    model: DenoisingModel, batch: list[Ask], config: GenerationConfig, cache: str, feature: str, width: int
) -> Records:
    prompts, cells = [ask.prompt for ask in batch], batch[0].cells
    config = config.replace(max_new_tokens=cells)
    static = DiffusionSampler(model, STATIC, cache, config).generate(prompts)
    answers = contents(static)
    sink: list[Records] = []

    def replay(sampler_config: GenerationConfig, asked: list[Any], reference: list[list[int]]) -> GenerationResult:
        oracle = RecordingEGP(tuple(map(tuple, reference)), width=width, feature=feature, sink=sink)
        return DiffusionSampler(model, oracle, cache, sampler_config).generate(asked)

    # What stands behind an end of text depends on when the row was stopped; before it, all is the reference's.
    assert contents(replay(config, prompts, static.sequences)) == answers
    short = [row for row, answer in enumerate(answers) if len(answer) + 1 < cells]
    if short:
        # Once more on canvases that end with the text, as EoTP cuts them: the filter must know short blocks.
        ends = [static.sequences[row][: len(answers[row]) + 1] for row in short]
        rows = [static.trace[row].prompt + [model.mask_id] * len(end) for row, end in zip(short, ends, strict=True)]
        replay(config.replace(max_new_tokens=0, infill=True), rows, ends)
    return Records.cat(sink)


def _about(
    model: DenoisingModel, asks: Sequence[Ask], config: GenerationConfig, cache: str, feature: str, batch_size: int
) -> dict[str, Any]:
    prompts = json.dumps([[ask.prompt, ask.cells] for ask in asks], default=list)
    settings = {k: v for k, v in config.to_dict().items() if k != "max_new_tokens"}
    return {
        "format": 2,
        "model": model.name,
        "weights": _weights_checksum(model),
        "prompts": len(asks),
        "checksum": zlib.crc32(prompts.encode()),
        "cache": cache,
        "feature": feature,
        "batch_size": batch_size,
        **settings,
    }


def _weights_checksum(model: DenoisingModel) -> int | None:
    """Of the norms, which are few and change with any training; ``None`` for a model that shows no weights."""
    if not isinstance(model, NativeModel):
        return None
    checksum = 0
    for parameter in model.module.parameters():
        if parameter.ndim == 1:
            checksum = zlib.crc32(parameter.detach().float().cpu().numpy().tobytes(), checksum)
    return checksum


def _claim(folder: Path, about: dict[str, Any]) -> None:
    """Make the folder, or check that it was made for the same records."""
    card = folder / "about.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not card.exists():
            write_whole(card, json.dumps(about, indent=2) + "\n")
        before = json.loads(card.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DllmError(f"cannot use {str(folder)!r} for records ({error}); give another folder.") from error
    changed = [name for name in about if before.get(name) != about[name]]
    if changed:
        name = changed[0]
        raise DllmError(
            f"{str(folder)!r} holds records with {name}={before.get(name)!r}, but now it is {about[name]!r}; "
            "give another folder, or delete that one."
        )

"""Train Learn2PD's filter (arXiv 2509.25188) for a model: collect, fit, choose the threshold, measure it."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dllm_decode.config import BLOCK_LENGTH, GenerationConfig
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.errors import DllmError
from dllm_decode.files import write_whole
from dllm_decode.filter_training.collect import STATIC, AskSets, batches, collect
from dllm_decode.filter_training.judge import Outcome, Progress, judge
from dllm_decode.interface.model import DenoisingModel
from filters import (
    REFERENCE_RECIPE,
    Calibration,
    FilterBank,
    FilterError,
    Fit,
    LearnedFilter,
    Measures,
    Recipe,
    Records,
    calibration,
    choose_threshold,
    fit,
    measure,
)
from samplers import EoTP, Learn2PD, LocalLeap, Policy, Threshold


@dataclass(frozen=True)
class FilterReport:
    """A trained filter and how well it does; the figures are of the test prompts unless they say valid.

    Attributes:
        learned: the filter, with its threshold and card. ``fitted``: how training went.
        sizes: records per split.
        valid, test: the filter at its threshold. ``alone``: the plain confidence instead of the filter, at the
            threshold that keeps the same false positives on the validation prompts; ``None`` for another feature.
        calibration: of the filter's probability. ``outcomes``: by policy.
        recipes: ``(name, fit, test measures)`` of each recipe that was compared.
    """

    learned: LearnedFilter
    fitted: Fit
    sizes: tuple[int, int, int]
    valid: Measures
    test: Measures
    alone: Measures | None
    calibration: Calibration
    outcomes: list[Outcome]
    recipes: list[tuple[str, Fit, Measures]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return {
            "records": dict(zip(("train", "valid", "test"), self.sizes, strict=True)),
            "training": {
                "epoch": self.fitted.epoch,
                "valid_loss": self.fitted.valid_loss,
                "seconds": round(self.fitted.seconds, 2),
            },
            "valid": dataclasses.asdict(self.valid),
            "test": dataclasses.asdict(self.test),
            "confidence_alone": None if self.alone is None else dataclasses.asdict(self.alone),
            "calibration": {**dataclasses.asdict(self.calibration), "error": self.calibration.error},
            "outcomes": [outcome.to_dict() for outcome in self.outcomes],
            "recipes": [
                {
                    "recipe": name,
                    "seconds": round(fitted.seconds, 2),
                    "valid_loss": fitted.valid_loss,
                    **dataclasses.asdict(measures),
                }
                for name, fitted, measures in self.recipes
            ],
        }

    def plot(self, path: str | Path) -> None:
        """Draw the calibration curve.

        Raises:
            DllmError: matplotlib is not installed.
        """
        check_plots(path)
        from matplotlib.figure import Figure

        curve = self.calibration
        figure = Figure(figsize=(4.5, 5.2), layout="constrained")
        top, low = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
        top.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        top.plot(curve.said, curve.held, marker="o", color="#1f5fa8")
        top.axvline(self.learned.threshold, color="#b3402a", linewidth=1)
        top.text(self.learned.threshold, 0.02, "threshold ", color="#b3402a", ha="right")
        top.set(ylabel="share of right proposals", ylim=(0, 1), title=f"{self.learned}: error {curve.error:.3f}")
        low.bar(curve.said, curve.count, width=0.06, color="#1f5fa8")
        low.set(xlabel="probability said by the filter", ylabel="open cells", yscale="log", xlim=(0, 1))
        picture = io.BytesIO()
        figure.savefig(picture, dpi=150, format=Path(path).suffix[1:])
        write_whole(path, picture.getvalue())


def check_plots(path: str | Path = "curve.png") -> None:
    """Raise :class:`DllmError` where nothing can be drawn, or not into a file of this name."""
    if Path(path).suffix not in (".png", ".svg", ".pdf"):
        raise DllmError(f"a plot cannot be written as {Path(path).suffix!r}; name it .png, .svg or .pdf.")
    if importlib.util.find_spec("matplotlib") is None:
        raise DllmError("plots need matplotlib, which is not installed; run pip install 'dllm-decode[plots]'.")


def train_filter(
    model: DenoisingModel,
    asks: AskSets,
    work: str | Path,
    *,
    block_length: int = BLOCK_LENGTH,
    max_false_positives: float = 0.002,
    recipe: Recipe | None = None,
    cache: str = "none",
    feature: str = "confidence",
    batch_size: int = 32,
    compare: bool = False,
    out: FilterBank | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> FilterReport:
    """Train, judge and (if asked) save a filter.

    Args:
        model: whose confidences the filter reads.
        asks: prompts to train, validate and test on; see :func:`~dllm_decode.filter_training.collect.asks_of_tasks`.
        work: folder of the collected records; an interrupted run continues there.
        block_length: the filter's width.
        max_false_positives: the threshold is the lowest one at which at most this share of the accepted proposals of
            the validation prompts is wrong.
        recipe: see :class:`filters.Recipe`.
        cache: of collecting and judging.
        feature: see :data:`filters.FEATURES`.
        batch_size: prompts decoded together.
        compare: also train by the reference's recipe (40,000 full-batch epochs: minutes), and report both.
        out: the bank to put the filter in.
        progress: see :data:`Progress`.
        **settings: further fields of :class:`GenerationConfig`.

    Raises:
        DllmError: something given cannot be used.
    """
    tell: Progress = progress if progress is not None else lambda stage, step, size: None
    if not 0 < max_false_positives < 1:
        raise DllmError(f"max_false_positives is {max_false_positives}; give a share between 0 and 1, such as 0.01.")
    config = GenerationConfig.from_dict({**settings, "block_length": block_length})
    sampler = DiffusionSampler(model, STATIC, cache, config)
    for batch in batches([*asks.train, *asks.valid, *asks.test], batch_size):
        sampler.check([ask.prompt for ask in batch], max_new_tokens=batch[0].cells)
    folder = Path(work)
    try:
        train, valid, test = (
            collect(
                model,
                part,
                folder / f"{name}-{block_length}",
                config,
                cache=cache,
                feature=feature,
                batch_size=batch_size,
                progress=partial(_tell_done, tell, f"collecting {name}", len(part)),
            )
            for name, part in (("train", asks.train), ("valid", asks.valid), ("test", asks.test))
        )
        recipe = recipe if recipe is not None else Recipe()
        fitted, said, chosen = _fit(train, valid, test, recipe, max_false_positives, "training", tell)
        plain = choose_threshold(valid.features, valid, max_false_positives) if feature == "confidence" else None
        recipes = []
        if compare:
            recipes.append(("mini-batches", fitted, measure(said, test, chosen.threshold)))
            full, full_said, full_chosen = _fit(
                train, valid, test, REFERENCE_RECIPE, max_false_positives, "training by the reference's recipe", tell
            )
            recipes.append(("40,000 full batches", full, measure(full_said, test, full_chosen.threshold)))
    except FilterError as error:
        raise DllmError(str(error)) from error
    learned = LearnedFilter(fitted.network, model.name, chosen.threshold, feature)
    report = FilterReport(
        learned=learned,
        fitted=fitted,
        sizes=(len(train), len(valid), len(test)),
        valid=chosen,
        test=measure(said, test, chosen.threshold),
        alone=None if plain is None else measure(test.features, test, plain.threshold),
        calibration=calibration(said, test),
        outcomes=judge(
            model, asks.test, _rivals(learned, plain, bool(model.eos_ids)), config, cache, batch_size, tell
        ),
        recipes=recipes,
    )
    card = {"recipe": dataclasses.asdict(recipe), "max_false_positives": max_false_positives, "cache": cache}
    report = dataclasses.replace(report, learned=dataclasses.replace(learned, card={**card, **report.to_dict()}))
    if out is not None:
        try:
            out.add(report.learned)
        except FilterError as error:
            raise DllmError(str(error)) from error
    return report


def _fit(
    train: Records,
    valid: Records,
    test: Records,
    recipe: Recipe,
    max_false_positives: float,
    stage: str,
    tell: Progress,
) -> tuple[Fit, Tensor, Measures]:
    """The fit, its probabilities on the test records, and the measures on the validation records."""
    fitted = fit(train, valid, recipe, partial(_tell_done, tell, stage, recipe.epochs))
    with torch.no_grad():
        said_valid, said_test = (fitted.network(part.features).sigmoid() for part in (valid, test))
    return fitted, said_test, choose_threshold(said_valid, valid, max_false_positives)


def _tell_done(tell: Progress, stage: str, size: int, done: int) -> None:
    tell(stage, done, size)


def _rivals(learned: LearnedFilter, plain: Measures | None, ends: bool) -> dict[str, Policy]:
    """The policies to compare, by name; static decoding and the oracle are added by :func:`judge`."""
    rivals: dict[str, Policy] = {"threshold 0.9": Threshold(0.9)}
    if plain is not None:
        rivals[f"threshold {plain.threshold:g}, same false positives"] = Threshold(plain.threshold)
    rivals |= {"localleap": LocalLeap(), "learn2pd": Learn2PD(learned)}
    if ends:
        rivals["learn2pd + eotp"] = Learn2PD(learned) | EoTP()
    return rivals

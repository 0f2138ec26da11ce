"""Trained filters: saving, loading, and finding the one that belongs to a model and a block width."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from filters.features import FEATURES, block_features, to_cells
from filters.files import FilterError, write_whole
from filters.network import FilterNetwork

#: Filters that ship with the package.
SHIPPED = Path(__file__).parent / "weights"


@dataclass(frozen=True, eq=False)
class LearnedFilter:
    """A network and what is known of it.

    Attributes:
        network: the weights.
        model: name of the model whose confidences it was trained on.
        threshold: a cell is accepted when its probability is strictly above this.
        feature: which number it reads per cell, one of :data:`~filters.features.FEATURES`.
        card: how it was trained and how well it does, as plain JSON values.
    """

    network: FilterNetwork
    model: str = ""
    threshold: float = 0.96
    feature: str = "confidence"
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Cells of the widest block it takes."""
        return self.network.width

    def __str__(self) -> str:
        return file_stem(self.model, self.width) if self.model else f"filter of width {self.width}"

    @torch.no_grad()
    def probability(self, values: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Fp32 ``[B, G]``: how sure the filter is of each block cell's proposal; 0 outside the block.

        Args:
            values: ``[B, G]``, the cells' numbers (see ``feature``).
            start: long ``[B]``, the block's first cell.
            end: long ``[B]``, the one after its last.

        Raises:
            FilterError: a block is wider than the filter.
        """
        widest = int((end - start).max()) if len(start) else 0
        if widest > self.width:
            raise FilterError(
                f"a block has {widest} cells but {self} reads at most {self.width}; "
                f"use block_length={self.width} or less, or train a wider filter."
            )
        network = self.network.to(values.device)
        logits = network(block_features(values, start, end, self.width))
        return to_cells(logits.sigmoid(), start, end, values.shape[1], fill=0.0)

    def save(self, path: str | Path) -> Path:
        """Write ``path`` (``.safetensors``) and its card beside it (``.json``); makes the folder.

        Raises:
            FilterError: they cannot be written; what was there is still there.
        """
        path = Path(path).with_suffix(".safetensors")
        weights = {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}
        facts = {"model": self.model, "block_length": self.width, "threshold": self.threshold, "feature": self.feature}
        lines = (f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in {**self.card, **facts}.items())
        card = "{\n" + ",\n".join(lines) + "\n}\n"
        write_whole(
            {
                path: lambda beside: save_file(weights, beside),
                path.with_suffix(".json"): lambda beside: beside.write_text(card, encoding="utf-8"),
            }
        )
        return path

    @classmethod
    def load(cls, path: str | Path) -> LearnedFilter:
        """Read a filter that :meth:`save` wrote, or bare weights without a card.

        Raises:
            FilterError: no such file, or not a filter.
        """
        path = Path(path)
        if not path.is_file():
            raise FilterError(f"there is no filter {str(path)!r}; give a .safetensors file made by train-filter.")
        card_path = path.with_suffix(".json")
        try:
            network = FilterNetwork.of(load_file(path))
            card = json.loads(card_path.read_text(encoding="utf-8")) if card_path.exists() else None
            if card is not None and not (isinstance(card, dict) and card):
                raise ValueError("the card is empty, or no object")
            card = card or {}
            taken = {name: card.pop(name) for name in ("model", "threshold", "feature") if name in card}
            width = card.pop("block_length", network.width)
        except (SafetensorError, OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise FilterError(
                f"{str(path)!r} (or its card) is no filter ({type(error).__name__}); give a file made by train-filter."
            ) from error
        threshold = taken.get("threshold", 0.5)
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
            raise FilterError(f"{card_path} says threshold={threshold!r:.40}; it must be a number from 0 to 1.")
        if not isinstance(taken.get("model", ""), str):
            raise FilterError(f"{card_path} says model={taken['model']!r:.40}; it must be a name.")
        if width != network.width:
            raise FilterError(f"{card_path} says {width} cells, but the weights have {network.width}; one is damaged.")
        if taken.get("feature", FEATURES[0]) not in FEATURES:
            raise FilterError(f"{card_path} names the feature {taken['feature']!r}; known: {', '.join(FEATURES)}.")
        return cls(network, card=card, **taken)


class FilterBank:
    """A folder of filters, keyed by the model's name and the block width.

    Args:
        folder: where they lie; default those that ship with the package.
    """

    def __init__(self, folder: str | Path = SHIPPED) -> None:
        self.folder = Path(folder)

    def names(self) -> list[str]:
        """The filters there are."""
        return sorted(p.stem for p in self.folder.glob("*.safetensors"))

    def widths(self, model: str) -> list[int]:
        """Block widths for which the model has a filter, rising."""
        stem = file_stem(model, 0)[:-1]
        tails = [name.removeprefix(stem) for name in self.names() if name.startswith(stem)]
        return sorted(int(tail) for tail in tails if tail.isdigit())

    def find(self, model: str, block_length: int) -> LearnedFilter:
        """The model's filter for blocks of ``block_length``: that width, or else the narrowest wider one.

        A short block is padded with 0, which is what a filter saw when a row was cut in training.

        Raises:
            FilterError: there is none.
        """
        wide = [w for w in self.widths(model) if w >= block_length]
        if not wide:
            known = ", ".join(self.names()) or "none"
            raise FilterError(
                f"no filter for model {model!r} takes blocks of {block_length} cells (there are: {known}); "
                "train one with train-filter, or give filter=FILE."
            )
        path = self.folder / f"{file_stem(model, wide[0])}.safetensors"
        if not path.with_suffix(".json").exists():
            raise FilterError(f"filter {str(path)!r} has lost its card (.json); train it again, or give filter=FILE.")
        return _load(path)

    def add(self, learned: LearnedFilter) -> Path:
        """Save a filter under its model's name and width."""
        _load.cache_clear()
        return learned.save(self.folder / file_stem(learned.model, learned.width))


def file_stem(model: str, width: int) -> str:
    """``LLaDA-8B-Instruct-32``: the last part of the model's name, and the width."""
    return f"{Path(model).name or 'model'}-{width}"


@lru_cache(maxsize=32)
def _load(path: Path) -> LearnedFilter:
    return LearnedFilter.load(path)

"""Timing of decoding steps: our loop, the textbook loop, and the machine's own rates."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.models.llada import LLaDA, LLaDAConfig
from dllm_decode.models.native import NativeModel
from samplers import TopK
from scripts.bench.textbook import Textbook


@dataclass(frozen=True)
class Row:
    """One line of the table; times in milliseconds, ``None`` = not measured."""

    name: str
    shape: str
    ms: float
    textbook_ms: float | None
    floor_ms: float | None

    @property
    def speedup(self) -> float | None:
        """How many times faster than the textbook loop."""
        return None if self.textbook_ms is None else self.textbook_ms / self.ms

    @property
    def over_floor(self) -> float | None:
        """Time over the floor; 1 is the best possible."""
        return None if self.floor_ms is None else self.ms / self.floor_ms


def random_llada(layers: int, width: int, vocabulary: int, slots: int, packed: bool = True) -> NativeModel:
    """A LLaDA with random weights, large ones packed as on load; the mask is the last id, its head row zero."""
    torch.manual_seed(0)
    config = LLaDAConfig(
        d_model=width,
        n_layers=layers,
        n_heads=width // 64,
        mlp_hidden_size=3 * width,
        vocab_size=vocabulary,
        embedding_size=vocabulary,
        max_sequence_length=slots,
        mask_token_id=vocabulary - 1,
    )
    model = LLaDA(config)
    with torch.no_grad():
        model.get_output_embeddings().weight[vocabulary - 1] = 0  # type: ignore[union-attr, operator]
    if packed:
        model.ready()
    return NativeModel(model, mask_id=vocabulary - 1, name="random")


def prompts_of(model: NativeModel, length: int, batch: int = 1) -> list[list[int]]:
    """Fixed random prompts without masks, one per row."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, model.vocab_size - 2, (batch, length), generator=generator)
    rows: list[list[int]] = ids.where(ids != model.mask_id, model.vocab_size - 2).tolist()
    return rows


def time_ours(
    model: NativeModel, prompt: int, new: int, block: int, k: int, cache: str, temperature: float, batch: int = 1
) -> tuple[list[float], list[float], float]:
    """Decode one canvas; seconds of every opening forward, of every other step, and the share outside the model."""
    sampler = DiffusionSampler(
        model,
        TopK(k=k),
        cache=cache,
        config=GenerationConfig(max_new_tokens=new, block_length=block, temperature=temperature, early_stop=False),
    )
    prompts = prompts_of(model, prompt) * batch
    openings, steps = [], []
    began = last = time.perf_counter()

    def clock(event: object) -> None:
        nonlocal last
        if event.row < batch - 1:  # type: ignore[attr-defined]
            return
        now = time.perf_counter()
        (openings if event.opening else steps).append(now - last)  # type: ignore[attr-defined]
        last = time.perf_counter()

    result = sampler.generate(prompts, on_step=clock)
    total = last - began
    return openings, steps, max(0.0, 1 - result.model_seconds / total)


def time_textbook(
    model: NativeModel,
    prompts: list[list[int]],
    new: int,
    block: int,
    k: int,
    cache: str,
    temperature: float,
    blocks: int | None = None,
) -> tuple[list[float], list[float]]:
    """The same run in the textbook loop, rows of one length; ``blocks``: stop after so many of them."""
    book = Textbook(model.module, model.mask_id)  # type: ignore[arg-type]
    device, prompt = model.device, len(prompts[0])
    rows = torch.tensor([ids + [model.mask_id] * new for ids in prompts], device=device)
    openings, steps = [], []
    for start in range(prompt, prompt + (new if blocks is None else blocks * block), block):
        past: list[tuple[Tensor, Tensor]] | None = None
        for i in range(-(-block // k)):
            sync(device)
            began = time.perf_counter()
            past = book.step(rows, (start, start + block), k, temperature, past, cache)
            sync(device)
            (steps if i else openings).append(time.perf_counter() - began)
    return openings, steps


def sync(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def middle(values: list[float]) -> float:
    """Median in milliseconds."""
    return 1e3 * statistics.median(values)

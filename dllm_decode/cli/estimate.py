"""``dllm-decode generate --estimate``: what a generation would take, without loading the weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from rich.table import Table

from dllm_decode.cli.common import check_policy, stdout

if TYPE_CHECKING:
    from dllm_decode.config import GenerationConfig
    from dllm_decode.engine.sampler import Prompt


def print_estimate(
    prompts: Sequence[Prompt],
    *,
    model: str,
    policy: str,
    cache: str,
    config: GenerationConfig,
    batch_size: int,
    chat: bool | None,
    device: str | None,
    dtype: str | None,
) -> None:
    """Print weights, cache and workspace of decoding these prompts, and the memory there is."""
    import torch

    from dllm_decode.engine.cost import GIB, Shape, estimate_memory
    from dllm_decode.models import inspect_model
    from dllm_decode.models.room import free_memory
    from samplers import Composition, PolicyError, Setting

    settings, width, tokenizer = inspect_model(model, dtype, device)
    if cache == "auto":
        cache = "none" if settings.attention_block is None else "block"
    longest = 0
    if tokenizer is not None:
        templated = tokenizer.chat_template is not None if chat is None else chat
        longest = max(len(tokenizer.encode_prompt(prompt, templated)) for prompt in prompts)
    slots = longest + config.max_new_tokens
    rows = min(batch_size, len(prompts))
    composed = Composition.of(check_policy(policy))
    bound: Composition | None = None
    with suppress(PolicyError):  # one that cannot be bound without the weights is not counted
        bound = composed.bind(
            Setting(
                mask_id=settings.embedding_rows - 1,
                vocab_size=settings.embedding_rows,
                cache=cache,
                block_length=config.block_length,
                max_new_tokens=config.max_new_tokens,
                temperature=config.temperature,
                model_name=model,
                token_ids=None if tokenizer is None else tokenizer.encode,
            )
        )
    drafts = max((getattr(part, "most", 1) for part in composed.parts), default=1)
    needs = estimate_memory(
        Shape.of(settings, width.itemsize, config.cache_dtype),
        rows,
        slots,
        min(config.block_length or slots, slots),
        cache,
        config.guidance > 0,
        drafts,
        bound,
    )
    free = free_memory(torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))) or 0
    name = str(width).removeprefix("torch.")
    counted = f"{rows} row{'s' * (rows > 1)}"
    out = stdout()
    kept = f" in {config.cache_dtype}" if config.cache_dtype else ""
    out.print(
        f"{model}: {counted} of up to {slots} tokens, cache {cache}{kept}, {name}", markup=False, highlight=False
    )
    table = Table()
    table.add_column("part")
    table.add_column("GiB", justify="right")
    for part in ("weights", "cache", "workspace", "total"):
        table.add_row(part, f"{getattr(needs, part) / GIB:.3f}")
    table.add_row("free now", f"{free / GIB:.3f}")
    out.print(table)

"""A policy meets the model, the cache and the settings it is to decode with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.blocks import fit_config
from dllm_decode.engine.events import StepEvent
from dllm_decode.engine.row_costs import row_costs
from dllm_decode.errors import DllmError
from dllm_decode.interface.model import DenoisingModel
from samplers import Composition, EosStop, Setting, spell
from samplers.contract import Scope
from samplers.stop_strings import StopStrings

Decode = Callable[[str, list[int], GenerationConfig], Iterator[StepEvent]]


def bind(
    policy: Composition, model: DenoisingModel, cache: str, config: GenerationConfig, decode: Decode
) -> Composition:
    """The policy with what the settings add to it, told about the model, cache and settings.

    Args:
        policy: unbound.
        model: what it is to decode.
        cache: its kind.
        config: the settings.
        decode: streams a prompt's events under another policy, to measure with.

    Raises:
        DllmError: model, cache or settings do not go with the policy (a PolicyError) or with each other.
    """
    config, tokenizer, title = fit_config(model, config), model.tokenizer, spell(policy)
    if config.early_stop and model.eos_ids:
        policy = policy.beside(EosStop())
    if config.stop:
        if tokenizer is None:
            raise DllmError(f"model {model.name!r} has no tokenizer, so stop={config.stop!r} cannot be read.")
        stop = StopStrings(config.stop, partial(tokenizer.decode, skip_special_tokens=False), policy.revises)
        policy = Composition.of(policy, stop)
    setting = Setting(
        mask_id=model.mask_id,
        eos_ids=model.eos_ids,
        vocab_size=model.vocab_size,
        cache=cache,
        shift=model.shift,
        block_length=config.block_length,
        max_new_tokens=None if config.infill else config.max_new_tokens,
        temperature=config.temperature,
        model_name=model.name,
        token_ids=None if tokenizer is None else tokenizer.encode,
        delimiter_ids=delimiter_ids(model),
        shadows=model.can_shadow,
        attention=model.shows_attention and cache == "none",
        family=model.family,
        row_costs=row_costs(model, cache, config, decode),
        horizon=model.attention_block,
    )
    bound = policy.bind(setting)
    if model.seeded and bound.revises:
        raise DllmError(
            f"{title} takes back or changes what is committed, but {model.name!r} cannot "
            "predict the first cell of a block again; use a policy that keeps what it commits."
        )
    if config.cache_dtype is not None and cache == "none":
        raise DllmError(
            f"cache_dtype={config.cache_dtype!r} says how keys and values are kept, but cache='none' keeps none; "
            "choose a cache (prefix, dual, or block), or leave cache_dtype out."
        )
    if Scope.REST in bound.opening_scope and cache != "none" and config.refresh != 1:
        raise DllmError(
            f"{title} reads the whole row on every opening forward, which refresh={config.refresh!r} "
            "shortens; use refresh=1."
        )
    if config.branches == "tree" and not model.supports_branches:
        raise DllmError(
            f"model {model.name!r} cannot hide tokens of one row from each other, so branches='tree' cannot "
            "work; use 'auto' or 'expand'."
        )
    bad = [i for i in config.suppress_tokens if i >= model.vocab_size]
    if bad:
        raise DllmError(f"suppress_tokens holds {bad[0]}, but the vocabulary has {model.vocab_size} tokens.")
    left = model.vocab_size - len({*config.suppress_tokens, model.mask_id})
    if left - len({*model.eos_ids} - {*config.suppress_tokens}) * config.infill < 1:
        raise DllmError(f"suppress_tokens holds {len(config.suppress_tokens)} tokens and leaves none to propose.")
    return bound


def delimiter_ids(model: DenoisingModel) -> tuple[int, ...]:
    """AdaBlock's default delimiters: the family's published list if the vocabulary is the family's, else the newline.

    A small model of the family, or one with another tokenizer, has other tokens at those ids.
    """
    newline = [] if model.tokenizer is None else model.tokenizer.encode("\n")
    listed = model.delimiter_ids
    if listed and max(listed) < model.vocab_size and (model.tokenizer is None or newline == [listed[0]]):
        return listed
    return tuple(newline) if len(newline) == 1 else ()

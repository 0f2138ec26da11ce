"""`load_model` as everybody calls it: where memory does not hold a model, it says what of the model would fit."""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch

from dllm_decode import models
from dllm_decode.engine.cost import GIB, Machine
from dllm_decode.engine.fit import best, fits
from dllm_decode.engine.rates import rates_of
from dllm_decode.models import NativeModel, inspect_config, loading
from dllm_decode.models.loading import DTYPES
from dllm_decode.models.room import NoRoomError

PROMPT, NEW, BLOCK = 512, 256, 32  #: of a row, where nobody has said; as ``dllm-decode fit`` takes them


@wraps(loading.load_model)
def load_model(*args: Any, **kwargs: Any) -> NativeModel:
    """:func:`dllm_decode.models.load_model`, whose refusal for want of memory ends with the best row of `fit`."""
    try:
        return models.load_model(*args, **kwargs)
    except NoRoomError as error:
        raise NoRoomError(f"{error} {what_fits(error)}", error.name, error.device, error.free) from None


def what_fits(error: NoRoomError) -> str:
    """A sentence: the way to run the model that ``dllm-decode fit`` marks."""
    config, device = inspect_config(error.name, error.device)
    rates = dict.fromkeys((torch.float32, torch.bfloat16), Machine(1e11, 1e10))
    if error.free > GIB:  # measuring takes a third of one
        rates = rates_of(device, BLOCK, 0.1)
    first = best(list(fits(config, rates, error.free, device.type, PROMPT, NEW, BLOCK)))
    if first is None:
        return "Nothing in the list of 'dllm-decode fit' fits here."
    option = "dtype" if first.weights in DTYPES else "quantize"
    return (
        f"Best of the list of 'dllm-decode fit': --{option} {first.weights}, cache {first.cache}, {first.rows} "
        f"row{'s' * (first.rows > 1)} of {PROMPT} + {NEW} tokens, {first.bytes / GIB:.1f} GiB: {first.verdict}."
    )

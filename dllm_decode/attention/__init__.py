"""Attention over ragged rows: one function, a ladder of backends, and what each query may see, worked out once.

`AttentionCase` is built once per forward and used by every layer: ragged lengths, branches, cache, and the backend
that serves them. A backend says whether it supports a case and why not.
"""

from __future__ import annotations

import logging

import torch

from dllm_decode.attention.backends import Backend, Reference, Sdpa, attend, attention_weights, rotate
from dllm_decode.attention.fused import Flash, TritonKernel, Varlen
from dllm_decode.errors import DllmError
from dllm_decode.interface.case import AttentionCase

__all__ = ["BACKENDS", "LADDER", "AttentionCase", "Backend", "attend", "attention_weights", "choose_backend", "rotate"]

log = logging.getLogger(__name__)

# Fastest first; "auto" takes the first one that is here and supports the case.
LADDER = ("flash", "varlen", "triton", "sdpa", "reference")
BACKENDS: dict[str, Backend] = {b.name: b for b in (Flash(), Varlen(), TritonKernel(), Sdpa(), Reference())}

_said: set[str] = set()


def choose_backend(attention: str, case: AttentionCase, dtype: torch.dtype, device: torch.device) -> Backend:
    """The backend of this name, or with "auto" the first of the ladder that supports the case.

    "auto" says each choice once, with what kept it from the faster ones (logger ``dllm_decode.attention``, INFO).

    Raises:
        DllmError: an unknown name, or a named backend that does not support the case (with its reason).
    """
    if attention == "auto":
        passed: list[str] = []
        for name in LADDER:
            if name not in BACKENDS:
                continue
            backend = BACKENDS[name]
            reason = backend.supports(case, dtype, device) or backend.avoided(device)
            if reason is None:
                _say(backend, passed, case, dtype, device)
                return backend
            passed.append(f"{name}: {reason}")
        raise DllmError(f"no attention backend serves this forward ({'; '.join(passed)}).")
    if attention not in BACKENDS:
        raise DllmError(f"unknown attention backend {attention!r}; use auto, {', '.join(BACKENDS)}.")
    reason = BACKENDS[attention].supports(case, dtype, device)
    if reason is not None:
        raise DllmError(f"attention backend {attention!r} cannot serve this forward: {reason}; use auto.")
    return BACKENDS[attention]


def _say(backend: Backend, passed: list[str], case: AttentionCase, dtype: torch.dtype, device: torch.device) -> None:
    if not log.isEnabledFor(logging.INFO):
        return
    why = f" ({'; '.join(passed)})" if passed else ""
    text = f"attention on {device} in {str(dtype).removeprefix('torch.')}, {case.kind}: {backend.name}{why}"
    if text not in _said:
        _said.add(text)
        log.info(text)

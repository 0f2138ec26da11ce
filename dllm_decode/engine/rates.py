"""The rates of this machine that every floor is made of, measured in about a second."""

from __future__ import annotations

import time

import torch

from dllm_decode.engine.cost import Machine


def rates_of(device: torch.device, tokens: int, seconds: float) -> dict[torch.dtype, Machine]:
    """:func:`machine_rates` of a device, by the dtype of its products."""
    with torch.device(device):
        return {dtype: machine_rates(tokens, seconds, dtype) for dtype in (torch.float32, torch.bfloat16)}


def machine_rates(tokens: int, seconds: float = 0.5, dtype: torch.dtype = torch.float32) -> Machine:
    """Measure this machine: a product of ``tokens`` rows with large weights, and a large copy."""

    def best(fn: object, amount: float) -> float:
        times: list[float] = []
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or len(times) < 3:
            began = time.perf_counter()
            fn()  # type: ignore[operator]
            if w.is_cuda:
                torch.cuda.synchronize(w.device)
            times.append(time.perf_counter() - began)
        return amount / min(times)

    x, w = torch.randn(tokens, 2048, dtype=dtype), torch.randn(2048, 2048, dtype=dtype)
    flops = best(lambda: x @ w, 2.0 * tokens * 2048 * 2048)
    # Rates of several token counts differ; the floor takes the best this machine ever does.
    y = torch.randn(512, 2048, dtype=dtype)
    flops = max(flops, best(lambda: y @ w, 2.0 * 512 * 2048 * 2048))
    big = torch.randn(2**25)
    out = torch.empty_like(big)
    # A forward reads its weights: half of a copy's traffic is reading, so count both directions.
    return Machine(flops, best(lambda: out.copy_(big), 2.0 * big.nbytes))

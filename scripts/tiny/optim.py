"""Muon for the matrices, AdamW for the rest, over one flat gradient."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn


def orthogonalize(update: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrix, batched: ``[n, rows, cols]`` in bf16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = update.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(update.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al., 2024); matrices of one shape are updated in one batch."""

    def __init__(
        self, params: list[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        """`params`: matrices only."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update; momentum is a running average, with Nesterov look-ahead."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for param in group["params"]:
                shapes[param.shape].append(param)
            for shape, params in shapes.items():
                grads = torch.stack([param.grad for param in params])
                state = self.state[params[0]]
                if "average" not in state:
                    state["average"] = torch.zeros_like(grads)
                average = state["average"].lerp_(grads, 1 - group["momentum"])
                update = orthogonalize(grads.lerp(average, group["momentum"]))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(params, list(update.unbind()), alpha=-scale)


class Optimizers:
    """Both optimisers, the flat gradient they share, and the running average of the weights."""

    def __init__(self, model: nn.Module, extra: int) -> None:
        """`extra`: values that travel with the gradient when processes sum it."""
        self.params = [param for param in model.parameters() if param.requires_grad]
        self.flat = torch.zeros(sum(p.numel() for p in self.params) + extra, device=self.params[0].device)
        self.extra = self.flat[-extra:]
        self.gradient = self.flat[:-extra]
        offset = 0
        for param in self.params:
            param.grad = self.flat[offset : offset + param.numel()].view_as(param)
            offset += param.numel()
        inside = [p for name, p in model.named_parameters() if ".blocks." in name and p.ndim == 2]
        outside = [p for p in self.params if not any(p is q for q in inside)]
        self.muon = Muon(inside, lr=0.0)
        self.adam = torch.optim.AdamW(outside, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        self.ema = [p.detach().clone() for p in self.params]

    def step(self, muon_lr: float, adam_lr: float, clip: float = 1.0) -> float:
        """Clip the gradient to `clip` and update; returns the gradient's norm before."""
        norm = float(self.gradient.norm())
        self.gradient.mul_(min(1.0, clip / (norm + 1e-6)))
        self.muon.param_groups[0]["lr"] = muon_lr
        self.adam.param_groups[0]["lr"] = adam_lr
        self.muon.step()
        self.adam.step()
        return norm

    @torch.no_grad()
    def average(self, decay: float) -> None:
        """Move the running average of the weights towards them."""
        torch._foreach_lerp_(self.ema, [p.detach() for p in self.params], 1 - decay)

    def state_dict(self) -> dict:
        """Everything that a resumed run needs beside the weights."""
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict(), "ema": self.ema}

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        """Continue where ``state_dict`` left off."""
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        torch._foreach_copy_(self.ema, state["ema"])

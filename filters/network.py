"""The filter network of Learn2PD (arXiv 2509.25188): two small matrices over one block's confidences."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FilterNetwork(nn.Module):
    """``f(z) = W2 relu(W1 z + b1) + b2``, from the numbers of a block to one logit per cell.

    With 32 cells these are 2,112 parameters.  The released weights' names are kept: ``linear1``, ``linear2``.

    Args:
        width: cells per block, inputs and outputs.
        hidden: units between the layers; default ``width``.
    """

    def __init__(self, width: int = 32, hidden: int | None = None) -> None:
        super().__init__()
        self.width = width
        self.linear1 = nn.Linear(width, hidden or width)
        self.linear2 = nn.Linear(hidden or width, width)

    def forward(self, values: Tensor) -> Tensor:
        """Fp32 ``[..., width]`` -> logits ``[..., width]``; the cell is taken when the logit's sigmoid is high."""
        logits: Tensor = self.linear2(torch.relu(self.linear1(values)))
        return logits

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> FilterNetwork:
        """The network of these weights; their shapes give its sizes.

        Raises:
            KeyError, RuntimeError: names or shapes are not a filter's.
        """
        hidden, width = state["linear1.weight"].shape
        with torch.device("meta"):  # no random weights that would be thrown away
            network = cls(width, hidden)
        network.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
        return network.eval().requires_grad_(False)

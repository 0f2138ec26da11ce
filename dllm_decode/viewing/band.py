"""AdaBlock's volatility band of one row, drawn by the live view."""

from __future__ import annotations

from collections.abc import Sequence

from dllm_decode.viewing.live import LiveView
from samplers import Prediction, View, volatility_band


class BandWatch:
    """Tells a live view which masks waver: pass it as ``on_prediction``, the view as ``on_step``.

    A cell that a forward does not cover keeps what the last one said.
    """

    def __init__(self, live: LiveView, high: float = 0.8, low: float = 0.1) -> None:
        """Mark masks with a confidence from ``low`` up and below ``high``, see :func:`samplers.volatility_band`."""
        self.live, self.high, self.low = live, high, low
        live.volatile = frozenset()

    def __call__(self, rows: Sequence[int], view: View, prediction: Prediction) -> None:
        """Look at the forward of some rows, among them perhaps the watched one."""
        if self.live.row not in rows:
            return
        row, said = list(rows).index(self.live.row), prediction.pick(0)  # of several branches, the canvas itself
        band = volatility_band(said, view, self.high, self.low)[row].nonzero()[:, 0].tolist()
        covered = set(said.predicted[row].nonzero()[:, 0].tolist())
        self.live.volatile = frozenset(band) | ((self.live.volatile or frozenset()) - covered)

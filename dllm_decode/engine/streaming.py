"""Feeding a transformers streamer from step events."""

from __future__ import annotations

from typing import Any

import torch

from dllm_decode.engine.events import StepEvent


class StreamRelay:
    """Feeds a transformers streamer: settled ids once by ``put``, the whole draft by ``put_draft``, then ``end``."""

    def __init__(self, streamer: Any) -> None:
        self.streamer, self.sent = streamer, 0

    def __call__(self, event: StepEvent) -> None:
        """Relay one event."""
        fresh = event.tokens[self.sent : event.settled]
        if fresh:
            self.streamer.put(torch.tensor(fresh))
            self.sent = event.settled
        draft = getattr(self.streamer, "put_draft", None)
        if draft is not None:
            draft(torch.tensor(event.tokens))
        if event.finished:
            self.streamer.end()

"""An ask under way."""

from __future__ import annotations

from dataclasses import dataclass

from dllm_decode.engine.request import Request
from dllm_decode.engine.scheduler import Ticket
from dllm_decode.serve.answers import Reader
from dllm_decode.serve.channel import Channel
from dllm_decode.serve.protocol import Ask


@dataclass(eq=False)
class Job:
    """An ask that the engine has taken.

    Attributes:
        ask: what was asked. ``requests``, ``tickets``: its rows. ``channel``: what they say.
        reader: makes texts. ``seed``: of all rows. ``prompt_tokens``: of all prompts. ``came``: seconds.
    """

    ask: Ask
    requests: list[Request]
    tickets: list[Ticket]
    channel: Channel
    reader: Reader
    seed: int
    prompt_tokens: int
    came: float
    id: str
    created: int

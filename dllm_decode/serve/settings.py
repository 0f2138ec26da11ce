"""What a server does when a request does not say."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dllm_decode.config import GenerationConfig


@dataclass(frozen=True)
class Serving:
    """What a server does when a request does not say.

    Attributes:
        name: of the model. ``policy``, ``cache``, ``config``: the defaults.
        most_tokens: canvas a request may ask for. ``most_n``, ``most_stops``: answers, stop strings.
        strict: refuse unknown fields. ``deadline``: seconds, or ``None``. ``drain``: seconds that shutting down waits.
        keys: API keys; none = open. ``hosts``: names this server answers to, besides the local ones.
        page: serve the playground. ``body_limit``: bytes.
    """

    name: str
    policy: str = "threshold"
    cache: str = "dual"
    config: GenerationConfig = dataclasses.field(default_factory=GenerationConfig)
    most_tokens: int = 1024
    most_n: int = 8
    most_stops: int = 4
    strict: bool = False
    deadline: float | None = None
    drain: float = 30.0
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    page: bool = True
    body_limit: int = 1 << 20

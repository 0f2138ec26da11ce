"""What a server does when a request does not say."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.blocks import default_cache
from dllm_decode.interface.model import DenoisingModel


@dataclass(frozen=True)
class Serving:
    """What a server does when a request does not say.

    Attributes:
        name: of the model. ``policy``, ``cache``, ``config``: the defaults; for the cache see :meth:`cache_of`.
        most_tokens: canvas a request may ask for. ``most_n``, ``most_stops``: answers, stop strings.
        strict: refuse unknown fields. ``deadline``: seconds, or ``None``. ``drain``: seconds that shutting down waits.
        keys: API keys; none = open. ``hosts``: names this server answers to, besides the local ones.
        page: serve the playground. ``body_limit``: bytes.
    """

    name: str
    policy: str = "threshold"
    cache: str | None = None
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

    def cache_of(self, model: DenoisingModel | None) -> str:
        """The cache of a request that names none: the one that was chosen, else the exact one, else ``"dual"``."""
        if model is None:
            return self.cache or "dual"
        exact = default_cache(model)
        if self.cache == "auto" or (self.cache is None and exact != "none"):
            return exact
        return self.cache or ("dual" if model.supports_cache else "none")

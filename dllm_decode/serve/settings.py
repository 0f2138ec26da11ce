"""What a server does, and what a request may not make it do."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from dllm_decode.config import GenerationConfig
from dllm_decode.serve.errors import bad
from samplers import Composition, Policy, PolicyError, parse_policy


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


def refuse_files(text: str) -> None:
    """Refuse a policy that reads a file or names a class: a request may do neither.

    Raises:
        ApiError: 400.
    """
    if text.lstrip().startswith("@"):
        raise bad("a request may name no policy file; spell the policy out.", "dllm.policy")
    try:
        parsed = parse_policy(text)
    except (PolicyError, RecursionError) as error:
        raise bad(str(error)[:500], "dllm.policy") from error
    pending: list[Policy] = [parsed]
    while pending:
        part = pending.pop()
        if isinstance(part, Composition):
            pending.extend(part.parts)
            continue
        for field in dataclasses.fields(part):  # type: ignore[arg-type]
            value = getattr(part, field.name)
            if isinstance(value, Policy):
                pending.append(value)
            free = isinstance(value, str) and "Literal" not in str(field.type)
            if free and value != field.default:
                raise bad(
                    f"a request may not set {type(part).__name__}'s {field.name}: it names a file; leave it out.",
                    "dllm.policy",
                )

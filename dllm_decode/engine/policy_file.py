"""Policy files: a tuned policy with the settings it was tuned under, read wherever a policy is given as ``@file``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from dllm_decode.config import CACHES, GenerationConfig, GenerationConfigError
from dllm_decode.errors import DllmError
from dllm_decode.files import parse_json, write_whole
from samplers import Policy, PolicyError, parse_policy
from samplers.registry import suggest

VERSION = 1


@dataclass(frozen=True)
class PolicyFile:
    """What ``@file`` stands for.

    Attributes:
        policy: the policy string.
        cache: the cache it was tuned with, or ``None``: no opinion.
        settings: fields of :class:`~dllm_decode.config.GenerationConfig` it was tuned with, such as ``block_length``.
        about: where it comes from: model, tasks, figures. For people.
    """

    policy: str
    cache: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def read_policy_file(path: str | Path) -> PolicyFile:
    """Read a policy file.

    Raises:
        DllmError: missing, or not such a file.
    """
    try:
        found = parse_json(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DllmError(f"cannot read policy file {str(path)!r} ({why}); give one that 'tune' wrote.") from error
    except ValueError as error:
        raise DllmError(f"policy file {str(path)!r} is no JSON ({error}); give one that 'tune' wrote.") from error
    if not isinstance(found, dict) or not isinstance(found.get("policy"), str) or found.get("version") != VERSION:
        raise DllmError(
            f"{str(path)!r} is no policy file; it must be an object with 'version': {VERSION} and 'policy': a string."
        )
    known = ["version", *(f.name for f in fields(PolicyFile))]
    for name in found:
        if name not in known:
            raise DllmError(
                f"policy file {str(path)!r} holds {name!r}{suggest(name, known)}; it may hold {', '.join(known)}."
            )
    cache, settings, about = found.get("cache"), found.get("settings", {}), found.get("about", {})
    if not isinstance(settings, dict) or not isinstance(about, dict):
        raise DllmError(f"policy file {str(path)!r} is damaged: settings and about must be objects.")
    if cache is not None and cache not in CACHES:
        raise DllmError(f"policy file {str(path)!r} names the cache {cache!r}; use one of {', '.join(CACHES)}.")
    try:
        GenerationConfig.from_dict(settings)
    except GenerationConfigError as error:
        raise DllmError(f"policy file {str(path)!r} has wrong settings: {error}") from error
    return PolicyFile(found["policy"], cache, settings, about)


def write_policy_file(path: str | Path, contents: PolicyFile) -> None:
    """Write a policy file."""
    text = json.dumps({"version": VERSION, **asdict(contents)}, indent=2)
    write_whole(path, text + "\n")


class Resolved(NamedTuple):
    """What was given as a policy: the policy, and what a file sets beside it (``None`` and nothing without one)."""

    policy: Policy
    cache: str | None
    settings: dict[str, Any]


def resolve_policy(given: str | Policy, trusted: bool = True) -> Resolved:
    """What a policy argument stands for, wherever one is taken.

    Args:
        given: a policy, its string, or ``@FILE``.
        trusted: whoever gave it may name files to read and classes to import.

    Raises:
        PolicyError: it does not parse, or is not to be trusted.
        DllmError: the file is missing, or no policy file.
    """
    file = PolicyFile("")
    if isinstance(given, str) and given.lstrip().startswith("@"):
        if not trusted:
            raise PolicyError(f"{given[:80]!r} names a file to read, which is not allowed here; spell the policy out.")
        file = read_policy_file(given.strip()[1:])
        given = file.policy
    try:
        return Resolved(parse_policy(given, trusted), file.cache, file.settings)
    except RecursionError:
        raise PolicyError("a policy's parentheses are nested too deep to be read; write it plainer.") from None

"""Policy files: a tuned policy with the settings it was tuned under, read wherever a policy is given as ``@file``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dllm_decode.errors import DllmError

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
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DllmError(f"cannot read policy file {str(path)!r} ({why}); give one that 'tune' wrote.") from error
    except json.JSONDecodeError as error:
        raise DllmError(f"policy file {str(path)!r} is no JSON ({error}); give one that 'tune' wrote.") from error
    if not isinstance(found, dict) or not isinstance(found.get("policy"), str) or found.get("version") != VERSION:
        raise DllmError(
            f"{str(path)!r} is no policy file; it must be an object with 'version': {VERSION} and 'policy': a string."
        )
    cache, settings, about = found.get("cache"), found.get("settings", {}), found.get("about", {})
    if not (cache is None or isinstance(cache, str)) or not isinstance(settings, dict) or not isinstance(about, dict):
        raise DllmError(f"policy file {str(path)!r} is damaged: cache must be a string, settings and about objects.")
    return PolicyFile(found["policy"], cache, settings, about)


def write_policy_file(path: str | Path, contents: PolicyFile) -> None:
    """Write a policy file."""
    text = json.dumps({"version": VERSION, **asdict(contents)}, indent=2)
    Path(path).write_text(text + "\n", encoding="utf-8")


def resolve_policy(text: str) -> PolicyFile:
    """What a ``--policy`` argument stands for: a policy file behind ``@``, or the plain string without settings."""
    return read_policy_file(text[1:]) if text.startswith("@") else PolicyFile(text)


def policy_string(text: str) -> str:
    """The policy string of a ``--policy`` argument."""
    return resolve_policy(text).policy

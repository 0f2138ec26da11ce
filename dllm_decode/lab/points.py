"""The policies of a comparison: strings or grids in, labelled points on curves out."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, cast

import yaml

from dllm_decode.engine.policy_file import resolve_policy
from dllm_decode.errors import DllmError
from samplers import Composition, Policy, PolicyError, parse_policy, spell
from samplers.grammar import with_field

log = logging.getLogger(__name__)

STATIC_POLICY = "topk"  # TopK(k=1): one cell per forward, the most confident one


@dataclass(frozen=True)
class Point:
    """One policy with all its parameters.

    Attributes:
        label: unique name in the run; the policy's own spelling, or ``static``.
        policy: the string that :func:`samplers.parse_policy` reads.
        family: the curve it belongs to: the policy without its numeric parameters.
        knob: the numeric parameters in which the points of the family differ.
    """

    label: str
    policy: str
    family: str
    knob: dict[str, Any] = field(default_factory=dict)


STATIC = Point("static", STATIC_POLICY, "static")


def points(
    policies: Iterable[str | Policy] = (), grid: Mapping[str, Any] | Sequence[Any] | str | Path | None = None
) -> list[Point]:
    """Points of policy strings (``@file`` allowed) and of a grid, each once, static decoding first.

    Args:
        policies: strings such as ``"threshold:threshold=0.8"``, or policies that their strings bring back.
        grid: what :func:`expand` takes, or the YAML file that holds it.

    Raises:
        PolicyError: a policy that does not parse.
        DllmError: a grid that is none.
    """
    spelled = [_spelled(policy) for policy in policies]
    if grid is not None:
        spelled += expand(read_grid(grid) if isinstance(grid, (str, Path)) else grid)
    unique = [text for text in dict.fromkeys(spelled) if text != STATIC_POLICY]
    families = {text: _split_knobs(text) for text in unique}
    members: dict[str, list[dict[str, Any]]] = {}
    for family, knobs in families.values():
        members.setdefault(family, []).append(knobs)
    found = [STATIC]
    for text, (family, knobs) in families.items():
        varied = {k: v for k, v in knobs.items() if any(other.get(k) != v for other in members[family])}
        found.append(Point(text, text, family, varied))
    return found


def _spelled(given: str | Policy) -> str:
    """A policy's string, under which it goes on record; the log says what else a policy file would have set."""
    found = resolve_policy(given)
    left = [*([] if found.cache is None else ["cache"]), *found.settings]
    if left:
        log.warning("only the policy of %s is taken here; it also sets %s", given, ", ".join(left))
    text = spell(found.policy)
    try:
        same = parse_policy(text) == found.policy
    except PolicyError:
        same = False
    if not same:
        raise PolicyError(
            f"{text[:80]!r} does not say all of this policy, which goes on record and to other processes by it; "
            "define its class in a module, and name files where it holds what was loaded from them."
        )
    return text


def read_grid(path: str | Path) -> Any:
    """The contents of a grid file.

    Raises:
        DllmError: missing, or no YAML.
    """
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DllmError(f"cannot read grid {str(path)!r} ({why}); give a YAML file.") from error
    except yaml.YAMLError as error:
        raise DllmError(f"grid {str(path)!r} is no YAML ({' '.join(str(error).split())}); see docs/lab.md.") from error


def expand(grid: Mapping[str, Any] | Sequence[Any]) -> list[str]:
    """All policy strings of a grid.

    A grid maps a policy to its parameters; a list of values is varied, any other value is fixed, and all combinations
    are taken. In a composition a parameter is written ``part.parameter``. A list of such mappings, and of plain
    policy strings, is a grid too::

        threshold: {threshold: [0.6, 0.8, 0.9]}
        adablock+localleap: {localleap.radius: [2, 4], adablock.delimiter_threshold: 0.3}

    Raises:
        PolicyError: a policy or value that does not parse.
        DllmError: anything else in the grid.
    """
    if isinstance(grid, str) or not isinstance(grid, (Mapping, Sequence)) or not grid:
        raise DllmError(f"the grid is {grid!r:.60}; give a mapping such as {{threshold: {{threshold: [0.8, 0.9]}}}}.")
    entries = [grid] if isinstance(grid, Mapping) else grid
    out: list[str] = []
    for entry in entries:
        if isinstance(entry, str):
            out.append(spell(parse_policy(entry)))
        elif isinstance(entry, Mapping):
            for base, parameters in entry.items():
                out += _expand_one(str(base), parameters)
        else:
            raise DllmError(f"the grid holds {entry!r:.60}; give a policy string or a mapping of its parameters.")
    return out


def _expand_one(base: str, parameters: Any) -> list[str]:
    parts = [spell(part) for part in Composition.of(parse_policy(base)).parts]
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, Mapping):
        raise DllmError(f"the grid gives {base} the parameters {parameters!r:.60}; give a mapping of names to values.")
    axes = []
    for name, values in parameters.items():
        listed = list(values) if isinstance(values, (list, tuple)) else [values]
        if not listed:
            raise DllmError(f"the grid gives {base} no value for {name}; give one or several.")
        axes.append([(_place(str(name), parts, base), value) for value in listed])
    out = []
    for combination in product(*axes):
        texts = list(parts)
        for (at, name), value in combination:
            texts[at] = with_field(texts[at], f"{name}={_write(value)}")
        out.append(spell(parse_policy("+".join(texts))))
    return out


def _place(name: str, parts: list[str], base: str) -> tuple[int, str]:
    """Which part a grid's parameter belongs to, and its name there."""
    if len(parts) == 1:
        return 0, name.rpartition(".")[2]
    part, dot, short = name.rpartition(".")
    names = [text.partition(":")[0] for text in parts]
    if not dot or part not in names:
        raise DllmError(
            f"the grid gives {base} a parameter {name!r}; write it as PART.{short}, PART one of {', '.join(names)}."
        )
    return names.index(part), short


def _write(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _split_knobs(text: str) -> tuple[str, dict[str, Any]]:
    """The family of a policy, and all its numeric parameters by name."""
    parts = Composition.of(parse_policy(text)).parts
    knobs: dict[str, Any] = {}
    plain: list[Policy] = []
    for part in parts:
        changes: dict[str, Any] = {}
        for spec in dataclasses.fields(cast(Any, part)):
            value = getattr(part, spec.name)
            numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
            if numeric and spec.default is not dataclasses.MISSING:
                name = spell(part).partition(":")[0]
                knobs[spec.name if len(parts) == 1 else f"{name}.{spec.name}"] = value
                changes[spec.name] = spec.default
        plain.append(_reset(part, changes))
    return spell(Composition.of(*plain)), knobs


def _reset(part: Policy, changes: dict[str, Any]) -> Policy:
    try:
        return dataclasses.replace(cast(Any, part), **changes)
    except ValueError:  # the defaults do not go with the other parameters: then they name the family too
        return part

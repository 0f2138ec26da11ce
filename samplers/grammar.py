r"""The one place where policy strings are parsed and printed.

Grammar: parts joined by ``+`` (or ``|``), each ``name`` or ``name:field=value,field=value``; a value that is itself a
policy goes in parentheses, alternatives of a tuple are separated by ``/``; in text ``\n``, ``\t`` and ``\xNN`` stand
for characters that cannot be written plainly, ``\e`` for no text at all::

    adablock:delimiters=\n/\x2c+localleap:radius=4+sched
    freedave:step=(topk:k=1),drafts=4
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from typing import Any, cast

from samplers.contract.data import PolicyError
from samplers.contract.policy import Composition, Policy
from samplers.registry import REGISTRY, foreign, installed, lookup, suggest

#: A policy of somebody else's: ``module:Class`` or ``module:Class(field=value,...)``.
FOREIGN = re.compile(r"([A-Za-z_][\w.]*:[A-Za-z_][\w.<>]*)(\(.*\))?", re.DOTALL)


def parse_policy(policy: str | Policy, trusted: bool = True) -> Policy:
    """A policy from its string; a policy object passes through.

    Args:
        policy: see the module's grammar.
        trusted: whoever wrote the string may name classes to import and files to read.

    Raises:
        PolicyError: unknown name or field, value of the wrong type, unbalanced parentheses, or not to be trusted.
    """
    if isinstance(policy, Policy):
        return policy
    if not isinstance(policy, str) or not policy.strip():
        raise PolicyError(f"{policy!r} is no policy; give a Policy or a string such as 'threshold:threshold=0.9'.")
    parts = [_parse_part(text, trusted) for text in _split(policy.replace("|", "+"), "+")]
    return parts[0] if len(parts) == 1 else Composition.of(*parts)


def spell(policy: Policy) -> str:
    """The string that :func:`parse_policy` reads back as ``policy``; fields at their default are left out."""
    if isinstance(policy, Composition):
        return "+".join(spell(part) for part in policy.parts)
    cls = type(policy)
    known = [*REGISTRY.items(), *installed().items()]
    name = next((n for n, e in known if e.target.endswith(f":{cls.__name__}") and e.load() is cls), None)
    fields = []
    for field in dataclasses.fields(cast(Any, policy)):
        value = getattr(policy, field.name)
        if field.init and field.repr and value != field.default:  # fields left out of the repr are data, not settings
            fields.append(f"{field.name}={_spell_value(value)}")
    given = ",".join(fields)
    if name is None:  # somebody's own, even if it is called like one of ours
        return f"{cls.__module__}:{cls.__qualname__}" + (f"({given})" if given else "")
    return name + (f":{given}" if given else "")


def with_field(part: str, given: str) -> str:
    """The string of a part with ``field=value`` added behind what it sets."""
    if FOREIGN.fullmatch(part):
        return f"{part[:-1]},{given})" if part.endswith(")") else f"{part}({given})"
    return part + ("," if ":" in part else ":") + given


def _spell_value(value: Any) -> str:
    if isinstance(value, Policy):
        return f"({spell(value)})"
    if isinstance(value, tuple):
        return "/".join(_spell_value(v).replace("/", "\\x2f") for v in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, str):
        if not value:
            return "\\e"
        plain = "".join(_escape(c) if c.isspace() or c in ",+|()\\" else c for c in value)
        return _escape(plain[0]) + plain[1:] if _reads_otherwise(plain) else plain
    return str(value).replace("e+", "e") if isinstance(value, float) else str(value)  # "+" joins parts


def _escape(char: str) -> str:
    return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"


def _reads_otherwise(text: str) -> bool:
    """Whether text would be read as a number or a word of the grammar."""
    if text.lower() in ("none", "true", "false"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def _unescape(text: str) -> str:
    named = {"\\n": "\n", "\\t": "\t", "\\e": ""}
    return re.sub(
        r"\\[nte]|\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}",
        lambda found: named[found[0]] if found[0] in named else chr(int(found[0][2:], 16)),
        text,
    )


def _split(text: str, separator: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth < 0:
            break
        if char == separator and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    if depth:
        raise PolicyError(f"unbalanced parentheses in policy {text!r}; write e.g. freedave:step=(topk:k=1).")
    return [*parts, text[start:]]


def _parse_part(text: str, trusted: bool = True) -> Policy:
    name, _, rest = text.strip().partition(":")
    target = FOREIGN.fullmatch(text.strip())
    if target is not None and name.lower() not in REGISTRY:
        if not trusted:
            raise PolicyError(
                f"{text.strip()!r} names a class to import, which is not allowed here; use a known policy."
            )
        cls, name, rest = foreign(target[1]), target[1], (target[2] or "()")[1:-1]
    else:
        cls = lookup(name)
    known = {f.name: f for f in dataclasses.fields(cast(Any, cls)) if f.init}
    hints = typing.get_type_hints(cls)
    given: dict[str, Any] = {}
    for item in _split(rest, ",") if rest else []:
        key, equals, value = item.partition("=")
        key = key.strip()
        if key not in known:
            raise PolicyError(
                f"{name} has no parameter {key!r}{suggest(key, known)}; it takes {', '.join(known) or 'none'}."
            )
        if not equals:
            raise PolicyError(f"{name}: parameter {key!r} has no value; write {key}=VALUE.")
        if key in given:
            raise PolicyError(f"{name}: parameter {key!r} is given twice; keep one of them.")
        if not trusted and str in _alternatives(hints[key]):  # free text is a name; choices are a Literal
            raise PolicyError(f"{name}: {key} names a file to read, which is not allowed here; leave it out.")
        given[key] = _coerce(value.strip(), hints[key], f"{name}: {key}", trusted)
    return cls(**given)


def _coerce(text: str, hint: Any, what: str, trusted: bool = True) -> Any:
    options = _alternatives(hint)
    for option in options:
        if isinstance(option, type) and issubclass(option, Policy) and text.startswith("(") and text.endswith(")"):
            return parse_policy(text[1:-1], trusted)
        if option is type(None) and text.lower() == "none":
            return None
        if option is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if typing.get_origin(option) is tuple:
            inner = typing.get_args(option)[0]
            return tuple(_coerce(piece, inner, what, trusted) for piece in text.split("/") if piece)
        if option in (int, float):
            try:
                number = option(text)
            except ValueError:
                continue
            # What fits a tensor of indices or probabilities; infinity and NaN are for the part to judge.
            if abs(number) < (2**53 if option is int else 3.4e38):
                return int(text) if abs(number) > 2**53 and text.lstrip("-").isdecimal() else number  # unrounded
            if not abs(number) < math.inf:
                return number
        if option is str:
            return _unescape(text)
        if typing.get_origin(option) is typing.Literal and text in typing.get_args(option):
            return text
    raise PolicyError(f"{what} is {text!r}, which is not {_describe(options)}.")


def _alternatives(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [o for arg in typing.get_args(hint) for o in _alternatives(arg)]
    return [hint]


def _describe(options: list[Any]) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", type(None): "none", str: "text"}
    said = []
    for option in options:
        if typing.get_origin(option) is typing.Literal:
            said.append("one of " + ", ".join(map(str, typing.get_args(option))))
        else:
            said.append(words.get(option, "a policy in parentheses" if isinstance(option, type) else str(option)))
    return " or ".join(said)

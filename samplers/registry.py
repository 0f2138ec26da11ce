r"""The table of policies by name, and the one place where policy strings are parsed and printed.

Grammar: parts joined by ``+`` (or ``|``), each ``name`` or ``name:field=value,field=value``; a value that is itself a
policy goes in parentheses, alternatives of a tuple are separated by ``/``; in text ``\n``, ``\t`` and ``\xNN`` stand
for characters that cannot be written plainly::

    adablock:delimiters=\n/\x2c+localleap:radius=4+sched
    freedave:step=(topk:k=1),drafts=4
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.metadata
import math
import re
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from samplers.contract.data import PolicyError
from samplers.contract.policy import Composition, Policy


@dataclass(frozen=True)
class Entry:
    """One line of the registry: where a policy part lives and which paper it comes from."""

    target: str
    paper: str

    def load(self) -> type[Policy]:
        """Import the part's class."""
        module, _, name = self.target.partition(":")
        return cast(type[Policy], getattr(importlib.import_module(module), name))


#: A policy of somebody else's: ``module:Class`` or ``module:Class(field=value,...)``.
FOREIGN = re.compile(r"([A-Za-z_][\w.]*:[A-Za-z_][\w.]*)(\(.*\))?", re.DOTALL)
#: Fields that name files.
FILES = frozenset({"filter", "table"})

REGISTRY: dict[str, Entry] = {
    "topk": Entry("samplers.topk:TopK", "LLaDA arXiv 2502.09992; Dream arXiv 2508.15487"),
    "threshold": Entry("samplers.threshold:Threshold", "Fast-dLLM arXiv 2505.22618"),
    "blockquota": Entry("samplers.block_quota:BlockQuota", "SDAR arXiv 2510.06303; LLaDA2.0 arXiv 2512.15745"),
    "jointthreshold": Entry("samplers.joint_threshold:JointThreshold", "LLaDA2.1"),
    "factor": Entry("samplers.factor:Factor", "Fast-dLLM arXiv 2505.22618"),
    "frechet": Entry("samplers.frechet:Frechet", "Fast-dLLM++ arXiv 2606.02955"),
    "entropybound": Entry("samplers.entropy_bound:EntropyBound", "EB-Sampler arXiv 2505.24857"),
    "entropythreshold": Entry("samplers.entropy_threshold:EntropyThreshold", "dParallel arXiv 2509.26488"),
    "hierarchy": Entry("samplers.hierarchy:Hierarchy", "dInfer arXiv 2510.08666"),
    "pcsampler": Entry("samplers.pc_sampler:PcSampler", "PC-Sampler arXiv 2508.13021"),
    "saber": Entry("samplers.saber:Saber", "Saber arXiv 2510.18165"),
    "credit": Entry("samplers.credit:Credit", "CreditDecoding arXiv 2510.06133"),
    "klass": Entry("samplers.klass:Klass", "KLASS arXiv 2511.05664"),
    "localleap": Entry("samplers.local_leap:LocalLeap", "LocalLeap arXiv 2510.07081"),
    "adablock": Entry("samplers.adablock:AdaBlock", "AdaBlock-dLLM arXiv 2509.26432"),
    "learn2pd": Entry("samplers.learn2pd:Learn2PD", "Learn2PD arXiv 2509.25188"),
    "eotp": Entry("samplers.eotp:EoTP", "Learn2PD arXiv 2509.25188"),
    "egp": Entry("samplers.egp:EGP", "the oracle of Learn2PD arXiv 2509.25188"),
    "ccd": Entry("samplers.ccd:CCD", "CCD arXiv 2512.02044"),
    "ccdds": Entry("samplers.ccd:CCDDS", "CCD arXiv 2512.02044"),
    "sched": Entry("samplers.sched:SchED", "SchED arXiv 2512.02892"),
    "prophet": Entry("samplers.prophet:Prophet", "Prophet arXiv 2508.19982"),
    "freedave": Entry("samplers.freedave:FreeDave", "FreeDave arXiv 2510.00294"),
    "freedaveplus": Entry("samplers.freedave:FreeDavePlus", "FreeDave++ arXiv 2510.00294"),
    "dawn": Entry("samplers.dawn:Dawn", "DAWN arXiv 2602.06953"),
    "lopa": Entry("samplers.lopa:Lopa", "LoPA arXiv 2512.16229"),
    "wino": Entry("samplers.wino:Wino", "WINO arXiv 2507.18578"),
    "eosstop": Entry("samplers.eos:EosStop", "early stop at the end of the text"),
    "defereos": Entry("samplers.eos:DeferEos", "LLaDA arXiv 2502.09992"),
}


def lookup(name: str) -> type[Policy]:
    """The class of a registered policy name; unknown names raise with a suggestion."""
    key = name.strip().lower().replace("-", "").replace("_", "")
    entry = REGISTRY.get(key) or installed().get(key)
    if entry is None:
        raise PolicyError(f"unknown policy {name!r}{suggest(name, REGISTRY)}; known: {', '.join(REGISTRY)}.")
    return entry.load()


@lru_cache
def installed() -> dict[str, Entry]:
    """Policies of other packages, by entry points of the group ``dllm_decode.policies``; ours win a clash."""
    found = importlib.metadata.entry_points(group="dllm_decode.policies")
    return {point.name.lower(): Entry(point.value, f"package {point.module}") for point in found}


def foreign(target: str) -> type[Policy]:
    """The policy class at ``module:Class``.

    Raises:
        PolicyError: there is none.
    """
    try:
        cls = Entry(target, "").load()
    except (ImportError, AttributeError) as error:
        raise PolicyError(
            f"{target!r} is neither a registered policy nor a class that can be imported ({error}); "
            f"known: {', '.join(REGISTRY)}."
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Policy) and dataclasses.is_dataclass(cls)):
        raise PolicyError(f"{target!r} is no policy; give a frozen dataclass that is a Policy.")
    return cls


def suggest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the closest known name, or nothing."""
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


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
        if field.repr and value != field.default:  # fields left out of the repr are data, not settings
            fields.append(f"{field.name}={_spell_value(value)}")
    given = ",".join(fields)
    if name is None:  # somebody's own, even if it is called like one of ours
        return f"{cls.__module__}:{cls.__qualname__}" + (f"({given})" if given else "")
    return name + (f":{given}" if given else "")


def _spell_value(value: Any) -> str:
    if isinstance(value, Policy):
        return f"({spell(value)})"
    if isinstance(value, tuple):
        return "/".join(_spell_value(v).replace("/", "\\x2f") for v in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, str):
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
    named = {"\\n": "\n", "\\t": "\t"}
    return re.sub(
        r"\\n|\\t|\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}",
        lambda found: named.get(found[0]) or chr(int(found[0][2:], 16)),
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
        if not trusted and key in FILES:
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
            return tuple(_coerce(piece, inner, what) for piece in text.split("/") if piece)
        if option in (int, float):
            try:
                number = option(text)
            except ValueError:
                continue
            # What fits a tensor of indices or probabilities; infinity and NaN are for the part to judge.
            if abs(number) < (2**53 if option is int else 3.4e38) or not abs(number) < math.inf:
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

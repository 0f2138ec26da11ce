"""The one check of policy fields: every value is what its annotation says, and no number is out of this world."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from functools import lru_cache
from typing import Any

from samplers.contract.setting import PolicyError

#: No count, cell or token id is beyond the one, no fp32 number beyond the other.
WHOLE, REAL = 2**31, 3.4e38


class Checked:
    """Base of dataclasses whose fields are checked when one is made."""

    def __init_subclass__(cls) -> None:
        """Fields are checked before the part's own ``__post_init__`` looks at them."""
        super().__init_subclass__()
        own = cls.__dict__.get("__post_init__")
        if own is not None:

            def checked(self: Checked) -> None:
                check_fields(self)
                own(self)

            cls.__post_init__ = checked  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        """Refuse values that the fields' annotations do not allow."""
        if dataclasses.is_dataclass(self):
            check_fields(self)


def bounded(
    default: Any,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    note: str = "",
    infinity: bool = False,
) -> Any:
    """A field of a policy with the numbers it may hold, ``None`` apart where the annotation allows it.

    Args:
        default: the field's.
        least: the smallest.
        most: the largest.
        above: likewise, but it is not one of them.
        below: likewise.
        note: what people take, for the error.
        infinity: infinity is one of them.
    """
    limits = {"least": least, "most": most, "above": above, "below": below, "note": note}
    return dataclasses.field(default=default, metadata={"limits": limits, "infinity": infinity})


def outside(value: Any, options: list[Any], least: Any, most: Any, above: Any, below: Any, note: str) -> str | None:
    """What to give instead of a number beyond its field's limits, or ``None``."""
    if value is None or isinstance(value, str):
        return None
    low = (least is None or value >= least) and (above is None or value > above)
    if low and (most is None or value <= most) and (below is None or value < below):
        return None
    where = f"above {above}" if least is None else f"from {least} {'up' if most is None else f'to {most}'}"
    where += "" if below is None else f" and below {below}"
    kind = "whole number" if int in options and float not in options else "number"
    return f"give a {kind} {where}{', or None' if type(None) in options else ''}{f' ({note})' if note else ''}"


def check_fields(policy: Any) -> None:
    """Raise :class:`PolicyError` for the first field whose value its annotation does not allow.

    Whole numbers are no booleans and no floats; numbers are finite and within the field's limits (:func:`bounded`); a
    list, or one value, given for a tuple becomes one.
    """
    hints = hints_of(typing.cast(Any, type(policy)))
    for field in dataclasses.fields(policy):
        if not field.init or field.name not in hints:
            continue
        value, options = getattr(policy, field.name), alternatives(hints[field.name])
        inner = next((typing.get_args(o)[0] for o in options if typing.get_origin(o) is tuple), None)
        if inner is not None and value is not None and not isinstance(value, tuple):
            value = tuple(value) if isinstance(value, list) else (value,)
            object.__setattr__(policy, field.name, value)
        problem = refused(value, options, bool(field.metadata.get("infinity")))
        if problem is None and "limits" in field.metadata:
            problem = outside(value, options, **field.metadata["limits"])
        if problem is not None:
            raise PolicyError(f"{field.name} is {value!r:.80}; {problem}.")


def refused(value: Any, options: list[Any], infinity: bool = False) -> str | None:
    """What to give instead of ``value``, or ``None`` if one of the annotations allows it."""
    for option in options:
        if option is Any or (option is type(None) and value is None):
            return None
        if typing.get_origin(option) is typing.Literal:
            if isinstance(value, (str, int)) and value in typing.get_args(option):
                return None
        elif typing.get_origin(option) is tuple:
            inner = alternatives(typing.get_args(option)[0])
            if isinstance(value, tuple) and all(refused(item, inner) is None for item in value):
                return None
        elif option in (int, float):
            number = not isinstance(value, bool) and isinstance(value, int if option is int else (int, float))
            most = WHOLE if isinstance(value, int) else REAL  # a tensor compares with no longer whole number
            if number and (abs(value) <= most or (infinity and value in (math.inf, -math.inf))):
                return None
        elif "Callable" in str(option):
            if callable(value):
                return None
        elif not isinstance(option, type) or isinstance(value, option):
            return None
    chosen = any(typing.get_origin(option) is typing.Literal for option in options)
    return f"{'choose' if chosen else 'give'} {described(options)}"


def alternatives(hint: Any) -> list[Any]:
    """The members of a union, or the annotation alone."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [o for arg in typing.get_args(hint) for o in alternatives(arg)]
    return [hint]


def described(options: list[Any]) -> str:
    """Annotations in words."""
    words: dict[Any, str] = {int: "a whole number", float: "a finite number", bool: "True or False"}
    words |= {type(None): "None", str: "text"}
    said: list[str] = []
    for option in options:
        if typing.get_origin(option) is typing.Literal:
            said += [str(choice) for choice in typing.get_args(option)]
        elif typing.get_origin(option) is tuple:
            said.append("several of: " + described(alternatives(typing.get_args(option)[0])))
        else:
            said.append(words.get(option, f"a {getattr(option, '__name__', option)}"))
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} or {said[-1]}"


@lru_cache
def hints_of(cls: type) -> dict[str, Any]:
    """The annotations of a class's fields; none of a class inside a function whose names cannot be found."""
    try:
        return typing.get_type_hints(cls)
    except NameError:
        return {}

"""``dllm-decode policies``."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dllm_decode.cli.common import label_text, stdout, write_json


def policies(
    name: Annotated[
        str | None, typer.Argument(help="One policy, to read what its parameters mean.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list.")] = False,
) -> None:
    """List the policies with their parameters, defaults and papers."""
    from samplers import REGISTRY, lookup

    if name is None:
        chosen = list(REGISTRY)
    else:
        wanted = lookup(name)
        chosen = [key for key in REGISTRY if REGISTRY[key].load() is wanted]
    rows = [describe(key) for key in chosen]
    out = stdout()
    if as_json:
        write_json(out, rows, indent=2)
    elif name is None:
        _print_table(rows, out)
    else:
        _print_one(rows[0], out)


def describe(name: str) -> dict[str, Any]:
    """Everything known of a registered policy: name, summary, roles, paper, parameters with types and defaults."""
    from samplers import REGISTRY, Policy

    entry = REGISTRY[name]
    part: Any = entry.load()
    doc = inspect.getdoc(part) or ""
    hints = typing.get_type_hints(part)
    return {
        "name": name,
        "class": part.__name__,
        "summary": doc.partition("\n")[0],
        "doc": doc,
        "decides": part.decide is not Policy.decide,
        "paper": entry.paper,
        "parameters": [
            {"name": field.name, "type": _type(hints[field.name]), "default": _default(field)}
            for field in dataclasses.fields(part)
            if field.init
        ],
    }


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    return hint.__name__ if inspect.isclass(hint) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def _default(field: dataclasses.Field[Any]) -> Any:
    """A JSON value; a policy by its string; ``None`` also when there is no default."""
    from samplers import Policy, spell

    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return None
    if isinstance(value, Policy):
        return f"({spell(value)})"
    if isinstance(value, (list, tuple, set, frozenset)):
        return [x if isinstance(x, (int, float, str)) else str(x) for x in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _parameters(row: dict[str, Any]) -> str:
    return "\n".join(f"{p['name']}={_spell(p['default'])}" for p in row["parameters"]) or "none"


def _spell(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    text = "/".join(map(str, value)) if isinstance(value, list) else str(value)
    return text or "(empty)"


def _print_table(rows: list[dict[str, Any]], out: Console) -> None:
    table = Table(show_lines=True)
    for head in ("policy", "parameters", "what it does, and where it comes from"):
        table.add_column(head)
    for row in rows:
        about = Text(_plain(row["summary"])).append(f"\n{row['paper']}", "dim")
        parameters = "\n".join(label_text(line, 27) for line in _parameters(row).splitlines())
        table.add_row(Text(row["name"], no_wrap=True), Text(parameters, no_wrap=True), about)
    out.print(table)
    out.print("Write name:parameter=value,...; join parts with +: factor:factor=0.9+eosstop", highlight=False)


def _print_one(row: dict[str, Any], out: Console) -> None:
    out.print(Text(f"{row['name']}  ({row['paper']})", style="bold"))
    out.print(Text(_plain(row["doc"])), soft_wrap=True)
    for p in row["parameters"]:
        out.print(Text(f"  {p['name']}={_spell(p['default'])}  ({p['type']})"))


def _plain(doc: str) -> str:
    """A docstring's words without its markup."""
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", doc).replace("``", "")

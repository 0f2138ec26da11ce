"""Measured tables in pages: written between markers, so that the prose around them stays."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path


def put(page: Path, name: str, lines: Sequence[str]) -> None:
    """Replace what stands between ``<!-- name: begin -->`` and ``<!-- name: end -->``, as far in as the first of them.

    Args:
        page: a Markdown file.
        name: of the markers; each must be there once.
        lines: the new contents.

    Raises:
        SystemExit: the page lacks a marker, or has it twice.
    """
    head, _, tail = _cut(page, name)
    indent = head[head.rfind("\n") + 1 :].partition("<")[0]
    inside = textwrap.indent("\n".join(lines), indent)
    page.write_text(f"{head}\n\n{inside}\n\n{indent}{tail}", encoding="utf-8")


def section(page: Path, name: str) -> list[str]:
    """The lines between two markers, see :func:`put`."""
    return _cut(page, name)[1].splitlines()


def _cut(page: Path, name: str) -> tuple[str, str, str]:
    """Up to the first marker, between both, from the second on."""
    text = page.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise SystemExit(f"{page} needs the lines '{begin}' and '{end}' once each, in this order.")
    head, rest = text.split(begin)
    inside, tail = rest.split(end)
    return head + begin, inside, end + tail


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)]

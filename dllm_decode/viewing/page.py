"""Self-contained HTML pages: styles, scripts and data in one file that loads nothing from anywhere."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

#: what would end a script element, open a comment in it, or end a line in old scripts
_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def asset(name: str) -> str:
    """The text of a file in ``assets``."""
    return files("dllm_decode.viewing").joinpath("assets", name).read_text(encoding="utf-8")


def json_block(name: str, value: Any) -> str:
    """A data element that scripts read by its id; no text in it can end it or become markup."""
    text = compact(value).translate(_UNSAFE)
    return f'<script type="application/json" id="{html.escape(name)}">{text}</script>\n'


def packed_block(name: str, packed: bytes) -> str:
    """A data element with what :func:`pack` returned."""
    return f'<script type="text/plain" id="{html.escape(name)}">{base64.b64encode(packed).decode("ascii")}</script>\n'


def pack(value: Any) -> bytes:
    """JSON, gzipped; the same value always gives the same bytes."""
    return gzip.compress(compact(value).encode("ascii"), compresslevel=9, mtime=0)


def compact(value: Any) -> str:
    """JSON in ASCII without spaces; refuses what JSON cannot say (NaN)."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def build_page(
    template: str, texts: Mapping[str, str], blocks: Sequence[str], scripts: Sequence[str], connects: bool = False
) -> str:
    """One HTML document.

    Args:
        template: asset with the body; ``@@name@@`` in it stands for a text.
        texts: plain texts by name (escaped here), ``title`` among them. Names ending in ``_html`` are taken as they
            are.
        blocks: data elements, see :func:`json_block` and :func:`packed_block`.
        scripts: assets that make up the page's one script, in order.
        connects: its script may ask the server that the page comes from.

    Returns:
        The document. Its content security policy allows this one script, by its hash, and no network.
    """
    # In one function, so that the scripts' names stay out of the global scope.
    script = "(function () {\n" + "\n".join(asset(name) for name in scripts) + "\n})();\n"
    if "</script" in script.lower() or "<!--" in script:
        raise ValueError("a script of the page contains '</script' or '<!--', which HTML would cut short.")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    ) + ("; connect-src 'self'" if connects else "")
    # The data goes around the template, never through it: nothing in a prompt is taken for a placeholder.
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{html.escape(texts['title'])}</title>\n<style>\n{asset('style.css')}</style>\n</head>\n<body>\n"
        + _substitute(asset(template), texts)
        + "".join(blocks)
        + f"<script>{script}</script>\n</body>\n</html>\n"
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # a file name may hold what UTF-8 cannot say


def _substitute(template: str, texts: Mapping[str, str]) -> str:
    """Fill the placeholders in one pass, so that no text is searched for placeholders itself."""
    pieces = template.split("@@")
    for i in range(1, len(pieces), 2):
        name = pieces[i]
        pieces[i] = texts[f"{name}_html"] if f"{name}_html" in texts else html.escape(texts[name])
    return "".join(pieces)

"""The API reference of the public names, from their docstrings: ``make docs``.

python -m scripts.api_docs build/docs     # needs the extra ``docs``; any warning of pdoc is an error
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Literal

PACKAGES = ("dllm_decode", "samplers", "filters")


def write_reference(folder: Path) -> list[Path]:
    """Write one page per package, an index and its search; the pages need no network.

    Raises:
        Warning: a public name does not resolve, or pdoc has another complaint.
    """
    import pdoc
    import pdoc.render

    for package in map(import_module, PACKAGES):
        for name in package.__all__:  # names that resolve on first use are no attributes before
            found = vars(package)[name] = getattr(package, name)
            # A dataclass's inherited fields are annotated in words of its base's module.
            vars(sys.modules[getattr(found, "__module__", __name__)]).setdefault("Literal", Literal)
    pdoc.render.configure(docformat="google", show_source=False, search=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc(*PACKAGES, r"!\w+\..*", output_directory=folder)
    return sorted(folder.glob("*.html"))


if __name__ == "__main__":
    written = write_reference(Path(sys.argv[1] if len(sys.argv) > 1 else "build/docs"))
    print(f"wrote {', '.join(map(str, written))}")

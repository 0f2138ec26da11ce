"""The API reference is written without a warning and holds every public name."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(tmp_path):
    pytest.importorskip("pdoc", reason="the docs extra is not installed")
    subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-m", "scripts.api_docs", tmp_path], check=True, cwd=ROOT
    )
    for package in ("dllm_decode", "samplers", "filters"):
        page = (tmp_path / f"{package}.html").read_text(encoding="utf-8")
        missing = [name for name in import_module(package).__all__ if f'id="{name}"' not in page]
        assert not missing, f"{package}: {missing}"
    assert (tmp_path / "index.html").exists()

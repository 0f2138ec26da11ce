"""The pictures of a comparison as PNG files."""

from __future__ import annotations

import importlib.util

import pytest

from dllm_decode.errors import DllmError
from dllm_decode.lab.summary import summarise_folder
from scripts.plots import write_plots
from tests.dllm_decode.lab.lab_records import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, ("threshold:threshold=0.6", "threshold:threshold=0.9", "factor"), "copy,lines", ("none",), 3)
    return folder, summarise_folder(folder)


def test_plots(run):
    pytest.importorskip("matplotlib", reason="the plots extra is not installed")
    folder, summary = run
    written = write_plots(folder, summary)
    names = ["frontier", "tasks", "heat", "steps", "calibration"]
    assert [path.name for path in written] == [f"{name}-none.png" for name in names]
    for path in written:
        head = path.read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
        assert width > 600 and height > 300


def test_plots_without_matplotlib_say_what_to_install(run, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else real(name, *a))
    with pytest.raises(DllmError, match="plots extra|matplotlib, which is not installed"):
        write_plots(run[0], run[1])

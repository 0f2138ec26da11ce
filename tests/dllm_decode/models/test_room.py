"""Weights that memory does not hold are refused before they are read, or loaded as stored."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import dllm_decode
from dllm_decode.cli import main
from dllm_decode.engine.cost import Machine
from dllm_decode.engine.fit import best, fits
from dllm_decode.errors import DllmError, LoadError
from dllm_decode.models import inspect_config, load_model, loading
from dllm_decode.models.room import GIB, NoRoomError, fitting_dtype, free_memory
from scripts.make_checkpoint import make_checkpoint

CPU, GPU, BF16, F32 = torch.device("cpu"), torch.device("cuda"), torch.bfloat16, torch.float32
EIGHT = 8 * GIB  # numbers: 16 GiB in bfloat16, 32 in float32


def test_what_fits_is_loaded_as_ever() -> None:
    assert fitting_dtype("m", EIGHT, None, BF16, CPU, 33 * GIB) == F32
    assert fitting_dtype("m", EIGHT, None, BF16, GPU, 17 * GIB) == BF16
    assert fitting_dtype("m", EIGHT, F32, BF16, GPU, 33 * GIB) == F32
    assert fitting_dtype("m", EIGHT, None, BF16, CPU, None) == F32


def test_as_stored_where_float32_does_not_fit(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert fitting_dtype("m", EIGHT, None, BF16, CPU, 20 * GIB) == BF16
    assert "m is loaded as stored, in bfloat16: its float32 weights would take 32.0 GiB, and 20.0" in caplog.text


def test_the_refusal_names_what_would_fit() -> None:
    said = r"take 32\.0 GiB in float32, but 20\.0 GiB are free on cpu; use --dtype bfloat16 \(16\.0 GiB\), a GPU"
    with pytest.raises(LoadError, match=said):
        fitting_dtype("m", EIGHT, F32, BF16, CPU, 20 * GIB)
    said = r"10\.0 GiB are free on cuda; use --quantize int8 \(about 8\.0 GiB\), another GPU"
    with pytest.raises(LoadError, match=said):
        fitting_dtype("m", EIGHT, None, BF16, GPU, 10 * GIB)
    with pytest.raises(LoadError, match=r"32\.0 GiB in float32, but 4\.0 GiB are free on cpu; use a GPU that holds"):
        fitting_dtype("m", EIGHT, None, F32, CPU, 4 * GIB)


def test_before_a_weight_is_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def read(*_: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(loading, "free_memory", lambda device: 1000)
    monkeypatch.setattr(loading, "read_weights", read)
    with pytest.raises(NoRoomError, match="are free on cpu"):
        load_model("tiny", device="cpu")
    with pytest.raises(LoadError, match=r"or a smaller model\. Nothing in the list of 'dllm-decode fit' fits here\.$"):
        dllm_decode.load_model("tiny", device="cpu")
    assert main(["generate", "x"]) == 2 and "'dllm-decode fit' fits here." in capsys.readouterr().err


def test_the_refusal_ends_with_the_best_row_of_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_checkpoint("llada-8b", tmp_path, scale=8)
    config = inspect_config(tmp_path)[0]
    rates = dict.fromkeys((F32, BF16), Machine(1e11, 1e10))
    free = int(1.2 * min(fit.bytes for fit in fits(config, rates, None, "cpu") if fit.weights == "int8"))
    monkeypatch.setattr(loading, "free_memory", lambda device: free)
    with pytest.raises(DllmError) as error:
        dllm_decode.load_model(tmp_path, dtype="float32", device="cpu")
    first = best(list(fits(config, rates, free, "cpu")))
    assert first is not None and first.weights == "int8" and first.rows == 1 and free < GIB
    said = f"--quantize int8, cache {first.cache}, 1 row of 512 + 256 tokens, {first.bytes / GIB:.1f} GiB: fits."
    assert str(error.value).endswith(said)
    assert main(["generate", "x", "-m", str(tmp_path), "--dtype", "float32"]) == 2
    assert said in capsys.readouterr().err


def test_there_is_some_memory() -> None:
    free = free_memory(CPU)
    assert free is None or 0 < free < 2**50

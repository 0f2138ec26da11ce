"""Weights that memory does not hold are refused before they are read, or loaded as stored."""

from __future__ import annotations

import logging

import pytest
import torch

from dllm_decode.errors import LoadError
from dllm_decode.models import load_model, loading
from dllm_decode.models.room import GIB, fitting_dtype, free_memory

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


def test_before_a_weight_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(loading, "free_memory", lambda device: 1000)
    monkeypatch.setattr(loading, "read_weights", read)
    with pytest.raises(LoadError, match="are free on cpu"):
        load_model("tiny", device="cpu")


def test_there_is_some_memory() -> None:
    free = free_memory(CPU)
    assert free is None or 0 < free < 2**50

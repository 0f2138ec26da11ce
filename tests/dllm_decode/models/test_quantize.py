"""Quantised loading: what is in 8 bits, what stays, that it decodes, and what is refused with what would work."""

from __future__ import annotations

import sys

import pytest
import torch

from dllm_decode import DiffusionSampler, load_model
from dllm_decode.errors import LoadError
from tests.dllm_decode.tiny import logits, plain


def test_unknown_and_impossible_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadError, match=r"unknown quantize='int7'; use int8, int4, fp8"):
        load_model("tiny", quantize="int7")
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(LoadError, match=r"needs torchao, .*install dllm-decode\[quantize\]"):
        load_model("tiny", quantize="int8")


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_a_quantised_model_is_near_and_decodes(kind: str) -> None:
    pytest.importorskip("torchao", reason="torchao is not installed")
    whole, small = load_model("tiny", dtype="bfloat16"), load_model("tiny", quantize=kind)
    linears = [m for m in small.module.modules() if type(m) is torch.nn.Linear]
    head = small.module.get_output_embeddings()
    kinds = {type(m.weight).__name__ for m in linears if m is not head}
    assert kinds == {"Int8Tensor" if kind == "int8" else "Float8Tensor"} and type(head.weight) is torch.nn.Parameter
    assert small.dtype == torch.bfloat16
    inp = plain(torch.randint(2, 600, (2, 9), generator=torch.Generator().manual_seed(0)))
    a, b = logits(whole, inp).float(), logits(small, inp).float()
    assert (a - b).norm() < 0.15 * a.norm()
    result = DiffusionSampler(small, "threshold", "dual").generate("sort: b a c")
    assert result.texts is not None and result.texts[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_int4_says_where_it_runs() -> None:
    pytest.importorskip("torchao", reason="torchao is not installed")
    with pytest.raises(LoadError, match="quantize='int4' runs on cuda only, not on cpu; use int8 or fp8"):
        load_model("tiny", quantize="int4")

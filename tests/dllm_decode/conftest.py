"""Settings and fixtures of these tests.

Triton kernels run in its interpreter where there is no GPU; that is set before the first of them is imported.
"""

from __future__ import annotations

import os
import warnings

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def lm_eval(tmp_path_factory):
    """The evaluation harness, kept from the network and from files of its own."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pytest.importorskip("lm_eval", reason="the extra 'eval' is not installed")
        import datasets
        import lm_eval.evaluator
        import lm_eval.utils

        import dllm_decode.harness.lm  # noqa: F401
    lm_eval.utils._LOGGING_CONFIGURED = True  # its handler would keep the stderr of one test
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    datasets.disable_progress_bars()
    return found


@pytest.fixture(scope="session")
def harness_model(lm_eval):
    """The class that is registered with the harness."""
    from dllm_decode.harness.lm import HarnessModel

    return HarnessModel


@pytest.fixture(scope="session")
def instance(lm_eval):
    """Makes a request of the harness."""
    from lm_eval.api.instance import Instance

    return lambda *arguments, kind="generate_until": Instance(kind, {}, arguments, 0)


@pytest.fixture(scope="session")
def random_model():
    """Undecided about everything, with the bundled tokenizer."""
    from dllm_decode.models import LLaDA, LLaDAConfig, NativeModel
    from dllm_decode.tasks.tokenizer import EOS_ID, MASK_ID, vocabulary
    from tests.dllm_decode.answering import codec

    torch.manual_seed(0)
    sizes = {"d_model": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "mlp_hidden_size": 24, "init_std": 0.5}
    module = LLaDA(LLaDAConfig(**sizes, vocab_size=len(vocabulary()), max_sequence_length=256))
    return NativeModel(module, mask_id=MASK_ID, eos_ids=(EOS_ID,), tokenizer=codec(), name="random")

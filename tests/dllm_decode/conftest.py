"""Triton kernels run in its interpreter where there is no GPU; set before the first of them is imported."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

"""``python -m dllm_decode``."""

from __future__ import annotations

import sys

from dllm_decode.cli import start

sys.exit(start())

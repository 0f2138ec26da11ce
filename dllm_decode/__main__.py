"""``python -m dllm_decode``."""

from __future__ import annotations

import sys

from dllm_decode.cli import main

sys.exit(main())

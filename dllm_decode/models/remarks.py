"""torchao's remarks on kernels that this build of torch has not, left out: transformers imports it unasked."""

from __future__ import annotations

import logging


def _kept(record: logging.LogRecord) -> bool:
    said = record.getMessage()
    return "Failed to load" not in said and "is an Enum subclass" not in said


for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).addFilter(_kept)

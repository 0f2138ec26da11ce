"""Train Learn2PD's filter for a model; the same as ``dllm-decode train-filter``.

    python -m scripts.train_filter --model tiny --block-length 16 --work runs/records --out filters/weights

Collects labels by replaying the model's own greedy answers with the EGP oracle (continues when interrupted), trains in
seconds, chooses the threshold on held-out prompts, and prints what decoding with the filter costs and loses.
``--compare`` also trains by the reference's recipe, 40,000 full-batch epochs.
"""

from __future__ import annotations

import sys

from dllm_decode.cli import app, main
from dllm_decode.cli.train_filter import train_filter

if __name__ == "__main__":
    if all(command.callback is not train_filter for command in app.registered_commands):
        app.command("train-filter")(train_filter)
    sys.exit(main(["train-filter", *sys.argv[1:]]))

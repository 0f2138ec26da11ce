"""Train Learn2PD's filter for a model; the same as ``dllm-decode train-filter``.

    python -m scripts.train_filter --model tiny --block-length 16 --work runs/records --out filters/weights

Collects labels by replaying the model's own greedy answers with the EGP oracle (continues when interrupted), trains in
seconds, chooses the threshold on held-out prompts, and prints what decoding with the filter costs and loses.
``--compare`` also trains by the reference's recipe, 40,000 full-batch epochs.
"""

from __future__ import annotations

import sys

from dllm_decode.cli import main

if __name__ == "__main__":
    sys.exit(main(["train-filter", *sys.argv[1:]]))

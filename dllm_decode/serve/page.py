"""The playground, and the standalone page of a trace that a client sends back."""

from __future__ import annotations

from typing import Any

from dllm_decode.engine.trace import Trace, TraceError, TraceStep
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.serve.errors import bad
from dllm_decode.serve.settings import Serving
from dllm_decode.viewing.page import build_page, json_block
from dllm_decode.viewing.viewer import build_viewer
from samplers import REGISTRY

SCRIPTS = ("base.js", "viewer.js", "playground.js")


def build_playground(serving: Serving, model: DenoisingModel | None) -> str:
    """The page, which asks nobody but the server it comes from."""
    tokenizer = None if model is None else model.tokenizer
    data = {
        "model": serving.name,
        "policy": serving.policy,
        "policies": [serving.policy, "topk:k=1"],
        "known": list(REGISTRY),
        "cache": serving.cache_of(model),
        "max_tokens": serving.config.max_new_tokens,
        "most_tokens": serving.most_tokens,
        "block_length": serving.config.block_length,
        "temperature": serving.config.temperature,
        "chat": tokenizer is not None and tokenizer.chat_template is not None,
        "eos": [] if model is None else list(model.eos_ids),
    }
    return build_page(
        "playground.html", {"title": f"Playground: {serving.name}"}, [json_block("data", data)], SCRIPTS, connects=True
    )


def standalone(body: Any) -> str:
    """The page that replays a trace, from the objects of its lines.

    Raises:
        ApiError: 400: it is no trace.
    """
    lines = body.get("trace") if isinstance(body, dict) else None
    if not isinstance(lines, list) or not lines or not all(isinstance(line, dict) for line in lines):
        raise bad("trace is missing; send the list that 'dllm': {'trace': true} gave.", "trace")
    head, *steps = lines
    try:
        trace = Trace(
            head["prompt"], head["canvas"], head["mask_id"], [TraceStep(**step) for step in steps], head["meta"]
        )
        return build_viewer([trace], _pieces(body))
    except (TraceError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise bad(f"trace is damaged ({type(error).__name__}); send it as it was given.", "trace") from None


def _pieces(body: dict[str, Any]) -> dict[int, str] | None:
    pieces = body.get("pieces")
    return None if not isinstance(pieces, dict) else {int(token): str(text) for token, text in pieces.items()}

"""What a client may ask: OpenAI's bodies, checked field by field into an :class:`Ask`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dllm_decode.config import CACHES
from dllm_decode.serve.errors import ApiError, bad, unsupported

COMMON = (
    "model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed", "n", "stop", "stream",
    "stream_options", "logprobs", "logit_bias", "frequency_penalty", "presence_penalty", "response_format", "dllm",
    "user", "metadata", "store", "service_tier",
)  # fmt: skip
CHAT = (*COMMON, "messages", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls")
TEXT = (*COMMON, "prompt", "suffix", "best_of", "echo")
OWN = (
    "policy", "cache", "block_length", "refresh", "guidance", "trace", "drafts", "deadline_ms", "partial",
)  # fmt: skip
ROLES = ("system", "user", "assistant", "developer")


@dataclass(frozen=True)
class Ask:
    """One checked body.

    Attributes:
        chat: of which endpoint. ``prompts``: texts, messages or ids. ``suffix``: text behind the hole.
        max_tokens: ``None`` = the server's default; so of all settings.
        settings: of :class:`~dllm_decode.config.GenerationConfig`. ``policy``, ``cache``: ``None`` = the default.
        stop: texts that end the answer. ``n``: answers per prompt. ``logprobs``: wanted.
        stream, include_usage, drafts, trace: what to send. ``deadline``: seconds. ``partial``: what is settled then.
    """

    chat: bool
    prompts: tuple[Any, ...]
    suffix: str | None = None
    max_tokens: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    policy: str | None = None
    cache: str | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    seed: int | None = None
    logprobs: bool = False
    stream: bool = False
    include_usage: bool = False
    drafts: bool = False
    trace: bool = False
    deadline: float | None = None
    partial: bool = False


def read_ask(body: Any, chat: bool, *, names: tuple[str, ...], most_stops: int, most_n: int, strict: bool) -> Ask:
    """Check a body.

    Args:
        body: what the JSON held.
        chat: whether it came to ``/v1/chat/completions``.
        names: that the model is served under.
        most_stops: stop strings a request may have. ``most_n``: answers.
        most_n: see ``most_stops``.
        strict: refuse unknown fields.

    Raises:
        ApiError: 400 or 404, naming the field.
    """
    if not isinstance(body, dict):
        raise bad("the body is not a JSON object; give one with 'messages' or 'prompt'.")
    if strict:
        known = CHAT if chat else TEXT
        wrong = next((name for name in body if name not in known), None)
        if wrong is not None:
            raise bad(f"unknown field {wrong!r:.60}; known: {', '.join(known)}.", str(wrong)[:60], "unknown_parameter")
    model = body.get("model")
    if model is not None and model not in names:
        raise ApiError(
            404,
            f"model {model!r:.80} is not served here; use {' or '.join(map(repr, names))}.",
            param="model",
            code="model_not_found",
        )
    _refuse_unserved(body, chat)
    own = _object(body, "dllm")
    wrong = next((name for name in own if name not in OWN), None)
    if wrong is not None:
        raise bad(f"dllm has no field {wrong!r:.60}; it takes {', '.join(OWN)}.", "dllm", "unknown_parameter")
    stream = _flag(body, "stream")
    options = _object(body, "stream_options")
    prompts = _messages(body) if chat else _prompts(body)
    suffix = _take(body, "suffix", lambda v: isinstance(v, str), "a text") if not chat else None
    if suffix and not all(isinstance(prompt, str) for prompt in prompts):
        raise bad("suffix needs prompt as text; give both as texts.", "suffix")
    tokens = _whole(body, "max_completion_tokens", 1)
    tokens = tokens if tokens is not None else _whole(body, "max_tokens", 1)
    n = _whole(body, "n", 1)
    if n is not None and n > most_n:
        raise bad(f"n is {n}; give at most {most_n}.", "n")
    settings: dict[str, Any] = {
        "temperature": _number(body, "temperature", 0, 2),
        "top_p": _number(body, "top_p", 0, 1),
        "top_k": _whole(body, "top_k", 1),
        "suppress_tokens": _suppressed(body),
        "block_length": _whole(own, "block_length", 1, "dllm.block_length"),
        "guidance": _number(own, "guidance", 0, 100, "dllm.guidance"),
    }
    if settings["top_p"] == 0:
        raise bad("top_p is 0; give a number above 0 and at most 1.", "top_p")
    refresh = own.get("refresh")
    if refresh is not None:
        settings["refresh"] = "window" if refresh == "window" else _whole(own, "refresh", 1, "dllm.refresh")
    deadline = _whole(own, "deadline_ms", 1, "dllm.deadline_ms")
    return Ask(
        chat=chat,
        prompts=prompts,
        suffix=suffix or None,
        max_tokens=tokens,
        settings={name: value for name, value in settings.items() if value is not None},
        policy=_take(own, "policy", lambda v: isinstance(v, str), "a text such as 'threshold'", "dllm.policy"),
        cache=_take(own, "cache", lambda v: v in CACHES, f"one of {', '.join(CACHES)}", "dllm.cache"),
        stop=_stops(body, most_stops),
        n=n or 1,
        seed=_whole(body, "seed", 0, most=2**63 - 1),
        logprobs=_logprobs(body, chat),
        stream=stream,
        include_usage=_flag(options, "include_usage", "stream_options.include_usage"),
        drafts=_flag(own, "drafts", "dllm.drafts"),
        trace=_flag(own, "trace", "dllm.trace"),
        deadline=None if deadline is None else deadline / 1000,
        partial=_flag(own, "partial", "dllm.partial"),
    )


def _refuse_unserved(body: dict[str, Any], chat: bool) -> None:
    for name in ("frequency_penalty", "presence_penalty"):
        if body.get(name) not in (None, 0):
            raise unsupported(name, f"{name} is not served: tokens are not drawn one after the other; leave it out.")
    if not chat and body.get("best_of") not in (None, 1):
        raise unsupported("best_of", "best_of is not served; ask for n answers and choose.")
    if not chat and body.get("echo") not in (None, False):
        raise unsupported("echo", "echo is not served; put the prompt in front yourself.")
    shape = body.get("response_format")
    if shape is not None and not (isinstance(shape, dict) and shape.get("type") == "text"):
        raise unsupported("response_format", "response_format is not served but for {'type': 'text'}; leave it out.")
    if chat and body.get("tools") and body.get("tool_choice") != "none":
        raise unsupported("tools", "tools are not served; leave them out, or give tool_choice 'none'.")
    if chat and body.get("top_logprobs") not in (None, 0):
        raise unsupported("top_logprobs", "top_logprobs is not served: only the chosen token's logprob is recorded.")


def _take(body: dict[str, Any], name: str, right: Callable[[Any], bool], allowed: str, said: str | None = None) -> Any:
    value = body.get(name)
    if value is None:
        return None
    if not right(value):
        raise bad(f"{said or name} is {value!r:.80}; give {allowed}.", said or name)
    return value


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = _take(body, name, lambda v: isinstance(v, dict), "an object") or {}
    return found


def _flag(body: dict[str, Any], name: str, said: str | None = None) -> bool:
    return bool(_take(body, name, lambda v: isinstance(v, bool), "true or false", said))


def _whole(body: dict[str, Any], name: str, least: int, said: str | None = None, most: int = 2**31 - 1) -> int | None:
    def right(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most

    found: int | None = _take(body, name, right, f"a whole number from {least} to {most}", said)
    return found


def _number(body: dict[str, Any], name: str, least: float, most: float, said: str | None = None) -> float | None:
    def right(value: Any) -> bool:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and math.isfinite(value) and least <= value <= most

    found = _take(body, name, right, f"a number from {least} to {most}", said)
    return None if found is None else float(found)


def _stops(body: dict[str, Any], most: int) -> tuple[str, ...]:
    value = body.get("stop")
    listed = [value] if isinstance(value, str) else value
    if listed is None or listed == []:
        return ()
    if not isinstance(listed, list) or len(listed) > most or not all(s and isinstance(s, str) for s in listed):
        raise bad(f"stop is {value!r:.80}; give a text or up to {most} texts, none of them empty.", "stop")
    return tuple(listed)


def _suppressed(body: dict[str, Any]) -> tuple[int, ...] | None:
    bias = _object(body, "logit_bias")
    if not bias:
        return None
    try:
        ids = tuple(sorted(int(token) for token in bias))
    except ValueError:
        raise bad("logit_bias has a key that is no token id; give ids.", "logit_bias") from None
    if any(isinstance(value, bool) or value != -100 for value in bias.values()) or ids[0] < 0:
        raise unsupported(
            "logit_bias", "logit_bias is served for -100 only, which suppresses a token; leave others out."
        )
    return ids


def _logprobs(body: dict[str, Any], chat: bool) -> bool:
    value = body.get("logprobs")
    if chat:
        return _flag(body, "logprobs")
    if value is None or value is False:
        return False
    if isinstance(value, int) and value in (0, 1):
        return True
    raise unsupported("logprobs", "logprobs is served for 0 or 1: only the chosen token's logprob is recorded.")


def _messages(body: dict[str, Any]) -> tuple[Any, ...]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad("messages is missing or empty; give a list of {'role', 'content'}.", "messages")
    out = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise bad(f"{where} needs a role among {', '.join(ROLES)} and a content.", "messages")
        role = "system" if message["role"] == "developer" else message["role"]
        out.append({"role": role, "content": _content(message.get("content"), where)})
    return (out,)


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        texts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content
        ]
        if all(isinstance(text, str) for text in texts):
            return "".join(texts)  # type: ignore[arg-type]
    raise bad(f"{where}.content must be a text or a list of {{'type': 'text', 'text': ...}}.", "messages")


def _prompts(body: dict[str, Any]) -> tuple[Any, ...]:
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return (prompt,)
    if isinstance(prompt, list) and prompt:
        if _ids(prompt):
            return (prompt,)
        if all(isinstance(one, str) or _ids(one) for one in prompt) and len(prompt) <= 64:
            return tuple(prompt)
    raise bad("prompt must be a text, a list of token ids, or a list of up to 64 of either.", "prompt")


def _ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(i) is int and 0 <= i < 2**31 for i in value)

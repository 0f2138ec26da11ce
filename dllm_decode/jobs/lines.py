"""One line of a job's input, and the line of the output that answers it.

Two shapes, told apart line by line: ours, ``{"id", "prompt" | "messages", settings...}``, and OpenAI's batch lines,
``{"custom_id", "method", "url", "body"}``; the answer has the shape of the question.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dllm_decode.config import GenerationConfig
from dllm_decode.errors import DllmError

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
#: Settings of a line that are no fields of :class:`~dllm_decode.config.GenerationConfig`.
OWN = ("policy", "cache", "samples", "chat")
#: Fields of an OpenAI body: ours for them. Those that are ignored have none.
RENAMED = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "n": "samples",
    **{name: name for name in ("temperature", "top_p", "top_k", "seed", "stop")},
}
IGNORED = ("model", "user", "metadata", "store", "service_tier", "messages", "prompt", "dllm")
#: Fields that change an answer in ways that are not served, and the values under which they change nothing.
INERT: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "best_of": (1, None),
    "logprobs": (False, None),
    "stream": (False, None),
    "tools": (None,),
    "tool_choice": ("none", None),
    "response_format": ({"type": "text"}, None),
}


class LineError(DllmError):
    """A line of the input that asks for nothing that can be done; says which line."""


@dataclass(frozen=True)
class Line:
    """What a line asks for.

    Attributes:
        id: unique in the job. ``prompt``: text, chat messages or token ids.
        settings: those of this line alone: fields of the config, ``policy``, ``cache``, ``samples``, ``chat``.
        url: of OpenAI's shape; "" = ours.
    """

    id: str
    prompt: Any
    settings: dict[str, Any]
    url: str = ""

    @classmethod
    def read(cls, text: bytes, number: int) -> Line:
        """Read line ``number`` (from 1) of an input.

        Raises:
            LineError: not such a line.
        """
        try:
            found = json.loads(text)
        except ValueError as error:
            raise LineError(f"line {number} is no JSON ({error}); write one object per line.") from error
        if not isinstance(found, dict):
            raise LineError(f"line {number} is a {type(found).__name__}; write one object per line.")
        return cls._of_openai(found, number) if "custom_id" in found else cls._of_ours(found, number)

    @classmethod
    def _of_ours(cls, found: dict[str, Any], number: int) -> Line:
        name = found.pop("id", None)
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        given = [key for key in ("prompt", "messages") if key in found]
        if not isinstance(name, str) or not name or len(given) != 1:
            raise LineError(
                f"line {number} must have an 'id' (text or a whole number) and one of 'prompt', 'messages'."
            )
        return cls(name, found.pop(given[0]), _known(found, number))

    @classmethod
    def _of_openai(cls, found: dict[str, Any], number: int) -> Line:
        name, url, body = found.get("custom_id"), found.get("url"), found.get("body")
        if not isinstance(name, str) or not name or not isinstance(body, dict):
            raise LineError(f"line {number} must have a 'custom_id' (text) and a 'body' (an object).")
        if url not in (CHAT, TEXT) or str(found.get("method", "POST")).upper() != "POST":
            raise LineError(
                f"line {number} asks for {found.get('method', 'POST')} {url}; only POST {CHAT} and {TEXT} are served."
            )
        settings: dict[str, Any] = {"chat": url == CHAT}
        for key, value in body.items():
            if key in RENAMED:
                if value is not None:
                    settings[RENAMED[key]] = value
            elif key in INERT:
                if value not in INERT[key]:
                    raise LineError(f"line {number}: {key} is {value!r:.60}, which is not served; leave it out.")
            elif key not in IGNORED:
                raise LineError(f"line {number}: {key!r} is not served; leave it out.")
        extra = body.get("dllm", {})
        if not isinstance(extra, dict):
            raise LineError(f"line {number}: 'dllm' is {extra!r:.60}; give an object of settings.")
        prompt = body.get("messages" if url == CHAT else "prompt")
        return cls(name, prompt, _known({**settings, **extra}, number), url)

    def place(self, sample: int = 0) -> tuple[int, int]:
        """Where the answer's random numbers come from: the id alone, wherever the line stands."""
        return int.from_bytes(hashlib.sha256(self.id.encode("utf-8", "surrogatepass")).digest()[:7], "big"), sample

    def answer(self, answers: Sequence[Mapping[str, Any]], model: str) -> bytes:
        """The line of the output for its samples: each has text, finish_reason, prompt_tokens, tokens, nfe, ..."""
        if not self.url:
            texts = [answer["text"] for answer in answers]
            name = "text" if isinstance(texts[0], str) else "tokens"  # without a tokenizer
            first = {name: texts[0]} if len(texts) == 1 else {name.rstrip("s") + "s": texts}
            costs = ("finish_reason", "content_tokens", "nfe", "tokens_forwarded")
            rest = {name: [a[name] for a in answers] if len(answers) > 1 else answers[0][name] for name in costs}
            return _line({"id": self.id, **first, **rest})
        chat = self.url == CHAT
        choices = [
            {
                "index": i,
                **({"message": {"role": "assistant", "content": a["text"]}} if chat else {"text": a["text"]}),
                "finish_reason": a["finish_reason"],
                "logprobs": None,
            }
            for i, a in enumerate(answers)
        ]
        asked, given = answers[0]["prompt_tokens"], sum(a["until_eos_tokens"] for a in answers)
        body = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{self.place()[0]:014x}",
            "object": "chat.completion" if chat else "text_completion",
            "model": model,
            "choices": choices,
            "usage": {"prompt_tokens": asked, "completion_tokens": given, "total_tokens": asked + given},
            "dllm": {
                name: [a[name] for a in answers]
                for name in ("nfe", "full_forwards", "tokens_forwarded", "canvas_tokens")
            },
        }
        response = {"status_code": 200, "request_id": body["id"], "body": body}
        return _line({"id": body["id"], "custom_id": self.id, "response": response, "error": None})

    def failure(self, error: Exception) -> bytes:
        """The line of the output for a line that failed alone."""
        said = " ".join(str(error).split()) or type(error).__name__
        what = {"message": said, "type": type(error).__name__}
        if self.url:
            return _line(
                {"id": f"error-{self.place()[0]:014x}", "custom_id": self.id, "response": None, "error": what}
            )
        return _line({"id": self.id, "error": what})


def _known(settings: dict[str, Any], number: int) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(GenerationConfig)}
    for name in settings:
        if name not in names and name not in OWN:
            raise LineError(f"line {number}: unknown setting {name!r}; known: {', '.join([*OWN, *sorted(names)])}.")
    samples = settings.get("samples", 1)
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
        raise LineError(f"line {number}: samples is {samples!r:.40}; give a whole number from 1 up.")
    if isinstance(settings.get("policy"), str) and settings["policy"].startswith("@"):
        raise LineError(
            f"line {number}: a policy file ({settings['policy']!r}) is given to the whole job, not to a line."
        )
    return settings


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=True, separators=(", ", ": ")).encode("ascii") + b"\n"

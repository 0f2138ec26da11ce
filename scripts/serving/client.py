"""A client over raw sockets: a fraction of a millisecond per request, so that it does not measure itself."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """What came back.

    Attributes:
        status: of HTTP; 0 = the client hung up. ``headers``, ``text``: as sent.
        said: the text of the answer, plain or put together from its chunks. ``last``: its last choice.
        first, seconds: until the first text, and in all.
        ended: a stream ended with ``[DONE]``.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""
    said: str = ""
    last: dict[str, Any] = field(default_factory=dict)
    first: float | None = None
    seconds: float = 0.0
    ended: bool = False

    @property
    def facts(self) -> tuple[str, int, int]:
        """Text, forwards and tokens forwarded."""
        own = self.last.get("dllm", {})
        return self.said, own.get("nfe", -1), own.get("tokens_forwarded", -1)

    @property
    def message(self) -> str:
        """Of the error object."""
        try:
            error = json.loads(self.text)["error"]
            assert set(error) == {"message", "type", "param", "code"}
            return str(error["message"])
        except (ValueError, KeyError, AssertionError, TypeError):
            return ""

    @property
    def retry_after(self) -> str:
        """The header."""
        return self.headers.get("retry-after", "")


async def ask(
    port: int, body: dict[str, Any] | bytes, *, path: str | None = None, hang_up: float | None = None
) -> Answer:
    """Send one body; ``hang_up``: close the connection after so many seconds, answered or not."""
    began, answer = time.perf_counter(), Answer()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        chat = isinstance(body, dict) and "messages" in body
        path = path or ("/v1/chat/completions" if chat else "/v1/completions")
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        try:
            writer.write(head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
            await writer.drain()
        except ConnectionError:
            pass  # a body that is too large is answered before it has been read
        if hang_up is not None:
            await asyncio.sleep(hang_up)
            return answer
        await _read(reader, answer, began)
    finally:
        writer.close()
    answer.seconds = time.perf_counter() - began
    return answer


async def _read(reader: asyncio.StreamReader, answer: Answer, began: float) -> None:
    answer.status = int((await reader.readline()).split()[1])
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        answer.headers[name.lower()] = value.strip()
    if "text/event-stream" not in answer.headers.get("content-type", ""):
        answer.text = (await reader.read()).decode("utf-8", "replace")
        if answer.status == 200:
            choice = json.loads(answer.text)["choices"][0]
            answer.last, answer.said = choice, choice.get("text") or choice.get("message", {}).get("content", "")
        return
    async for line in reader:
        if not line.startswith(b"data: "):
            continue
        answer.text += line.decode()
        if line.strip() == b"data: [DONE]":
            answer.ended = True
            continue
        event = json.loads(line[6:])
        for choice in event.get("choices", ()):
            said = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
            if said and answer.first is None:
                answer.first = time.perf_counter() - began
            answer.said += said
            answer.last = choice

"""What a client is told when something is wrong: always OpenAI's error object."""

from __future__ import annotations

from typing import Any

from dllm_decode.engine.pool import EngineDead
from dllm_decode.engine.scheduler import DeadlinePassed, NeverFits, QueueFull
from dllm_decode.errors import DllmError
from samplers import PolicyError


class ApiError(Exception):
    """An answer that is no answer.

    Attributes:
        status: of HTTP. ``message``: one sentence. ``kind``, ``param``, ``code``: of the error object.
        retry_after: seconds; ``retry``: whether the client should try again by itself, ``None`` = as it likes.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        retry: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after, self.retry = retry_after, retry

    @property
    def kind(self) -> str:
        """The error's type, as OpenAI names them."""
        if self.status == 401:
            return "authentication_error"
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers beside it."""
        found = {}
        if self.retry_after is not None:
            found["retry-after"] = str(self.retry_after)
        if self.retry is not None:
            found["x-should-retry"] = str(self.retry).lower()
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        return found


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that cannot be served as it is."""
    return ApiError(400, message, param=param, code=code)


def unsupported(param: str, message: str) -> ApiError:
    """A field that this server does not serve."""
    return bad(message, param, "unsupported_parameter")


def of_exception(error: Exception, retry_after: int = 1) -> ApiError:
    """The answer that an exception of the engine amounts to."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFull):
        return ApiError(429, str(error), code="queue_full", retry_after=retry_after)
    if isinstance(error, NeverFits):
        return bad(str(error), "max_tokens", "context_length_exceeded")
    if isinstance(error, DeadlinePassed):
        return ApiError(504, str(error), param="deadline_ms", code="deadline_exceeded", retry=False)
    if isinstance(error, EngineDead):
        return ApiError(503, str(error), code="engine_dead", retry_after=30)
    if isinstance(error, (DllmError, PolicyError)) and not isinstance(error, RuntimeError):
        return ApiError(500, str(error), code="internal_error", retry=False)
    said = type(error).__name__
    return ApiError(500, f"decoding this request failed ({said}); others go on.", code="internal_error", retry=False)

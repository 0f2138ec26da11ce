"""Errors a user can cause. Each message is one sentence: what was given, what is allowed, what to do."""

from __future__ import annotations


class DllmError(ValueError):
    """Wrong input to dllm_decode, found before any forward."""


class ConfigError(DllmError):
    """A model's config.json asks for something this package does not compute."""


class LoadError(DllmError):
    """A model could not be loaded from where it was said to be."""


class RunFailedError(DllmError):
    """What was asked for was fine, but the run has failed: exit code 1 instead of 2."""


class NotFiniteError(RunFailedError):
    """A model's scores are no numbers: found in a forward, which ends the run."""


class WriteError(RunFailedError):
    """A file could not be written."""


class CacheError(DllmError):
    """A KV cache cannot be made or does not fit what is asked of it."""

"""FreeDave (arXiv 2510.00294): drafts, the chain of those that hold, and the same above temperature 0."""

from __future__ import annotations

from samplers.freedave.freedave import FreeDave, FreeDavePlus

__all__ = ["FreeDave", "FreeDavePlus"]

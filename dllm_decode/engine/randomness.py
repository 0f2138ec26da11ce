"""Where a row's random numbers come from: the seed, the place of its prompt in the whole job, the sample's number.

Nothing else: neither the batch a row is decoded in nor the process that decodes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from dllm_decode.errors import DllmError

#: A row's place in a job: index of the prompt, number of the sample of it.
Place = tuple[int, int]


def row_generator(seed: int, place: Place) -> torch.Generator:
    """The random source of one row; it depends on seed and place alone."""
    prompt, sample = place
    mixed = seed * 0x9E3779B97F4A7C15 + prompt * 0xBF58476D1CE4E5B9 + sample * 0xD6E8FEB86659FD93
    return torch.Generator().manual_seed((mixed + 0x94D049BB133111EB) % 2**63)


def places_of(prompts: int, num_samples: int, given: Iterable[int | Place] | None) -> list[Place]:
    """The places of the rows of one call, prompt by prompt.

    Args:
        prompts: how many there are.
        num_samples: rows per prompt.
        given: the prompts' indices in the whole job, or pairs of those and the number of their first sample;
            ``None`` = 0, 1, 2, ...

    Raises:
        DllmError: not one place per prompt, or something that is no place.
    """
    if not _whole(num_samples) or not 1 <= num_samples <= 1_000_000:
        raise DllmError(f"num_samples is {num_samples!r}; give a whole number from 1 to 1000000.")
    listed = list(range(prompts) if given is None else given)
    if len(listed) != prompts:
        raise DllmError(f"{prompts} prompts were given with {len(listed)} places; give one place per prompt.")
    out: list[Place] = []
    for place in listed:
        pair = (place, 0) if isinstance(place, int) else place
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(_whole(number) for number in pair):
            raise DllmError(
                f"a place is {place!r:.60}; give the prompt's index in the job, or (index, sample), from 0 up."
            )
        out += [(pair[0], pair[1] + sample) for sample in range(num_samples)]
    return out


def _whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0

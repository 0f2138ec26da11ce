"""Long tasks: answers of 56 to 116 cells over several blocks, on which decoding rules differ.

Each file holds one family. They are built of pieces that the short tasks teach (sums within 20, look-up by a letter,
4x4 grids), so that a small model can learn most of each, and not all.
"""

from __future__ import annotations

from dllm_decode.tasks.long.columns import COLUMN_TASKS
from dllm_decode.tasks.long.extract import EXTRACT_TASKS
from dllm_decode.tasks.long.grammar import GRAMMAR_TASKS
from dllm_decode.tasks.long.programs import PROGRAM_TASKS
from dllm_decode.tasks.long.stories import STORY_TASKS
from dllm_decode.tasks.long.sudokus import SUDOKU_TASKS
from dllm_decode.tasks.long.trips import TRIP_TASKS

__all__ = ["LONG_TASKS"]

LONG_TASKS = (
    *PROGRAM_TASKS,
    *COLUMN_TASKS,
    *STORY_TASKS,
    *TRIP_TASKS,
    *EXTRACT_TASKS,
    *SUDOKU_TASKS,
    *GRAMMAR_TASKS,
)

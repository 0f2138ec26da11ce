"""Words to a sentence: free text that must hold given words, from words that go together to words that do not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

from dllm_decode.tasks.base import Problem, Task
from dllm_decode.tasks.parallelbench.grammar import sentence_faults

WORDS = 4
TOPICS = tuple(
    words.split()
    for words in (
        "kitchen oven flour bread butter recipe spoon plate",
        "garden seed rain flower shovel fence tree leaf",
        "train station ticket window suitcase platform journey seat",
        "beach wave sand towel shell sun boat gull",
        "school teacher pencil lesson desk library book bell",
        "hospital nurse doctor bandage bed patient medicine visit",
        "forest path owl bear tent river fire map",
        "concert guitar stage singer crowd drum song lamp",
        "market apple basket coin farmer stall price bag",
        "winter snow coat sled glove ice chimney scarf",
        "office letter printer meeting desk phone manager chair",
        "museum painting guide statue hall ticket frame visitor",
    )
)
SAYINGS = (
    "Write one sentence that holds all of these words: {words}. Answer with the sentence alone.",
    "Use the words {words} together in one correct sentence, and write nothing but this sentence.",
    "Make up a single sensible sentence with the words {words}. Give the sentence and nothing else.",
)
# One right answer to any set of words; a model may of course write something better.
ANSWERS = (
    "In one of the short stories that I read last week, there was something about {words}.",
    "My sister drew a picture for us, and it showed {words}.",
    "We made a list of nice words, which began with {words}.",
)
_SUFFIXES = r"(?:e?s|e?d|ing|r|er|ly|'s|’s)?"


def join(words: Sequence[str], determiner: str = "") -> str:
    """``a, b and c``, each after ``determiner``."""
    named = [determiner + word for word in words]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def holds(text: str, word: str, strict: bool) -> bool:
    """Whether a text holds a word, in any case; strictly: as a whole word or a regular inflection of it."""
    if not strict:
        return word.lower() in text.lower()
    stem, last = word[:-1], word[-1]
    # bake, bakes, baking; cry, cries; stop, stopped
    ending = "e?" if last == "e" else "(?:y|ie?)" if last == "y" else f"{last}{last}?"
    return re.search(rf"\b{re.escape(stem)}{ending}{_SUFFIXES}\b", text, re.IGNORECASE) is not None


def check_sentence(problem: Problem, text: str, strict: bool) -> bool:
    """Whether a text is one well-formed sentence with all of ``problem["words"]``; ``ice_cream`` means two words."""
    for word in problem["words"]:
        text = text.replace(word, word.replace("_", " "))
    return all(holds(text, word.replace("_", " "), strict) for word in problem["words"]) and not sentence_faults(text)


def _draw(topics: int, rng: Random, split: str, short: bool) -> dict[str, Any]:
    """Four words, each topic giving equally many of them."""
    while True:
        chosen = rng.sample(TOPICS, topics)
        words = [word for topic in chosen for word in rng.sample(topic, WORDS // topics)]
        if len(set(words)) == WORDS:
            rng.shuffle(words)
            return {"words": words}


def ask(problem: Problem, template: int) -> str:
    """The prompt. It has no example: any sentence would suggest a frame for the answer."""
    return SAYINGS[template].format(words=join(problem["words"]))


def frame_answer(problem: Problem, rng: Random) -> str:
    """A right answer to any set of nouns."""
    return rng.choice(ANSWERS).format(words=join(problem["words"], "the "))


def sentence_tasks(prefix: str, strict: bool) -> list[Task]:
    """The three sentence tasks; see :func:`~dllm_decode.tasks.parallelbench.waiting_line.line_tasks`."""
    kinds = (("easy", 1, "of one topic"), ("medium", 2, "of two topics"), ("hard", 4, "of four topics"))
    return [
        Task(
            name=f"{prefix}words_{name}",
            description=f"write a sentence with four words {what}",
            max_new_tokens=64,
            draw=partial(_draw, topics),
            prompt=ask,
            answer=frame_answer,
            accepts=partial(check_sentence, strict=strict),
        )
        for name, topics, what in kinds
    ]

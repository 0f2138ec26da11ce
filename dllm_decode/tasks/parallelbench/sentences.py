"""Words to a sentence: free text that must hold given words, from words that go together to words that do not.

Whether an answer is one well-formed English sentence is told by surface rules that need no service and no model:
doubled words, loose punctuation, a/an, ends that are missing, two sentences in one, lists instead of sentences. A
dropped word or two swapped ones mostly pass. ParallelBench asks a LanguageTool server; the scores are not comparable.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any

from dllm_decode.tasks.base import Problem, Task

WORDS = 4
_TOPICS = """\
kitchen oven flour bread butter recipe spoon plate
garden seed rain flower shovel fence tree leaf
train station ticket window suitcase platform journey seat
beach wave sand towel shell sun boat gull
school teacher pencil lesson desk library book bell
hospital nurse doctor bandage bed patient medicine visit
forest path owl bear tent river fire map
concert guitar stage singer crowd drum song lamp
market apple basket coin farmer stall price bag
winter snow coat sled glove ice chimney scarf
office letter printer meeting desk phone manager chair
museum painting guide statue hall ticket frame visitor"""
TOPICS = tuple(line.split() for line in _TOPICS.splitlines())
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

MOST_WORDS, FEWEST_WORDS = 40, 4
_MAY_DOUBLE = {"that", "had"}
_FUNCTION = (
    "a an the this that these those my your his her its our their some any each every no both all "
    "i you he she it we they me him us them who which what whose "
    "of in on at to for from with by about into over under after before between through during without near "
    "and or but so because while when if as than then though until "
    "is are was were be been am do does did has have had will would can could may might must should not"
)
_FUNCTION_WORDS = set(_FUNCTION.split())
# Sounds that do not follow the letter: "a university", "an hour".
_VOWEL_SPELLED_CONSONANT = re.compile(r"(uni(?!n)|us[aeiu]|eu|ewe|one\b|once\b|ura|ute|uto|ubi|uk)", re.IGNORECASE)
_CONSONANT_SPELLED_VOWEL = re.compile(r"(hour|honest|honou?r|heir|8|11\b|18\b)", re.IGNORECASE)
_CLASHES = {
    **dict.fromkeys(("he", "she", "it"), {"are", "were", "have", "do", "am"}),
    **dict.fromkeys(("we", "they"), {"is", "was", "has", "does", "am"}),
    "i": {"is", "are", "has", "does"},
}
# "she and it are", "does he have": the verb belongs to something else.
_EXCUSING = "and or nor do does did can could will would shall should may might must let"
_EXCUSES = set(_EXCUSING.split())
#: what is wrong with a sentence in which the pattern is found
_FORM = (
    ("more than one line", r"\n"),
    ("does not begin with a capital letter", r"\A(?![\"'(]?[A-Z])"),
    ("does not end with a full stop", r"(?<![.!?])(?<![.!?][\"')])\Z"),
    ("more than one sentence", r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)[.!?][\"')]?\s+\S"),
    ("markup or other strange characters", r"[^\w\s.,;:!?'\"’“”()$%&/–—-]|_"),
    ("quotation marks that do not pair", r"\A[^\"]*\"(?:[^\"]*\"[^\"]*\")*[^\"]*\Z"),
    ("misplaced punctuation", r"\s[.,;:!?]|[,;:.!?]{2}|[,;:](?=[A-Za-z])|\(\s|\s\)"),
    ("doubled blanks", "  "),
)


def sentence_faults(text: str) -> list[str]:
    """What is wrong with a text as one English sentence; empty = nothing was found.

    Args:
        text: the whole answer; one pair of quotation marks around it is ignored.

    Returns:
        Short descriptions, in a fixed order.
    """
    sentence = text.strip()
    if len(sentence) > 1 and sentence[0] == sentence[-1] == '"' and sentence.count('"') == 2:
        sentence = sentence[1:-1].strip()
    if not sentence:
        return ["empty"]
    faults = [fault for fault, pattern in _FORM if re.search(pattern, sentence)]
    if sentence.count("(") != sentence.count(")"):
        faults.append("brackets that do not pair")
    tokens = re.findall(r"[A-Za-z0-9’'-]+|[.,;:!?]", sentence)
    low = [token.lower() for token in tokens if token[0].isalnum()]
    pairs = [(a, b) for a, b in zip(tokens, tokens[1:], strict=False) if b[0].isalnum()]
    if not FEWEST_WORDS <= len(low) <= MOST_WORDS:
        faults.append(f"{len(low)} words")
    faults += [f"{a!r} twice in a row" for a, b in pairs if a.lower() == b.lower() and a.lower() not in _MAY_DOUBLE]
    runs = list(zip(low, low[1:], low[2:], low[3:], strict=False))
    if len(set(runs)) < len(runs):
        faults.append("four words repeated")
    faults += [f"article in '{a} {b}'" for a, b in pairs if _article_is_wrong(a.lower(), b)]
    if not _FUNCTION_WORDS & set(low):
        faults.append("no function word")
    for before, subject, verb in zip(["", *low], low, low[1:], strict=False):
        if verb in _CLASHES.get(subject, ()) and before not in _EXCUSES:
            faults.append(f"agreement in '{subject} {verb}'")
    return faults


def _article_is_wrong(article: str, word: str) -> bool:
    if article not in ("a", "an") or len(word) == 1 or word.isupper():
        return False
    if word[0].lower() in "aeiou":
        return (article == "an") == bool(_VOWEL_SPELLED_CONSONANT.match(word))
    return (article == "an") != bool(_CONSONANT_SPELLED_VOWEL.match(word))


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
        words = [word for topic in rng.sample(TOPICS, topics) for word in rng.sample(topic, WORDS // topics)]
        if len(set(words)) == WORDS:
            rng.shuffle(words)
            return {"words": words}


def _join(words: Sequence[str], determiner: str = "") -> str:
    named = [determiner + word for word in words]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def ask_words(problem: Problem, template: int) -> str:
    """The prompt. It has no example: any sentence would suggest a frame for the answer."""
    return SAYINGS[template].format(words=_join(problem["words"]))


def frame_answer(problem: Problem, rng: Random) -> str:
    """A right answer to any set of nouns."""
    return rng.choice(ANSWERS).format(words=_join(problem["words"], "the "))


def sentence_tasks(prefix: str, strict: bool) -> list[Task]:
    """The three sentence tasks; see :func:`~dllm_decode.tasks.parallelbench.waiting_line.line_tasks`."""
    kinds = (("easy", 1, "of one topic"), ("medium", 2, "of two topics"), ("hard", 4, "of four topics"))
    return [
        Task(
            name=f"{prefix}words_{name}",
            description=f"write a sentence with four words {what}",
            max_new_tokens=64,
            draw=partial(_draw, topics),
            prompt=ask_words,
            answer=frame_answer,
            accepts=partial(check_sentence, strict=strict),
        )
        for name, topics, what in kinds
    ]

"""Is this one well-formed English sentence?  A checker of surface rules that needs no service and no model.

It knows no syntax.  It finds doubled words, loose punctuation, a/an, ends that are missing, two sentences in one and
lists instead of sentences; a dropped word or two swapped ones mostly pass.  ParallelBench asks a LanguageTool server;
scores of the two are not comparable.
"""

from __future__ import annotations

import re

MOST_WORDS, FEWEST_WORDS = 40, 4
_ENDINGS = ".!?"
_TITLES = ("Mr.", "Mrs.", "Ms.", "Dr.", "St.")
_MAY_DOUBLE = {"that", "had"}
_FUNCTION = (
    "a an the this that these those my your his her its our their some any each every no both all "
    "i you he she it we they me him us them who which what whose "
    "of in on at to for from with by about into over under after before between through during without near "
    "and or but so because while when if as than then though until "
    "is are was were be been am do does did has have had will would can could may might must should not"
)
_FUNCTION_WORDS = frozenset(_FUNCTION.split())
# Sounds that do not follow the letter: "a university", "an hour".
_VOWEL_SPELLED_CONSONANT = re.compile(r"(uni(?!n)|us[aeiu]|eu|ewe|one\b|once\b|ura|ute|uto|ubi|uk)", re.IGNORECASE)
_CONSONANT_SPELLED_VOWEL = re.compile(r"(hour|honest|honou?r|heir|8|11\b|18\b)", re.IGNORECASE)
_SINGULAR, _PLURAL = {"he", "she", "it"}, {"we", "they"}
_CLASHES = {
    **{word: {"are", "were", "have", "do", "am"} for word in _SINGULAR},
    **{word: {"is", "was", "has", "does", "am"} for word in _PLURAL},
    "i": {"is", "are", "has", "does"},
}
# "she and it are", "does he have": the verb belongs to something else.
_EXCUSING = "and or nor do does did can could will would shall should may might must let"
_EXCUSES = frozenset(_EXCUSING.split())


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
    return [*_form_faults(sentence), *_word_faults(sentence)]


def _form_faults(sentence: str) -> list[str]:
    faults = []
    if "\n" in sentence:
        faults.append("more than one line")
    if not re.match(r"[\"'(]?[A-Z]", sentence):
        faults.append("does not begin with a capital letter")
    if not re.search(rf"[{_ENDINGS}][\"')]?$", sentence):
        faults.append("does not end with a full stop")
    plain = sentence
    for title in _TITLES:
        plain = plain.replace(title, title[:-1])
    if re.search(rf"[{_ENDINGS}][\"')]?\s+\S", plain):
        faults.append("more than one sentence")
    if re.search(r"[^\w\s.,;:!?'\"’“”()$%&/–—-]|_", sentence):
        faults.append("markup or other strange characters")
    if sentence.count('"') % 2 or sentence.count("(") != sentence.count(")"):
        faults.append("quotation marks or brackets that do not pair")
    if re.search(r"\s[.,;:!?]|[,;:.!?]{2}|[,;:](?=[A-Za-z])|\(\s|\s\)", sentence):
        faults.append("misplaced punctuation")
    if "  " in sentence:
        faults.append("doubled blanks")
    return faults


def _word_faults(sentence: str) -> list[str]:
    faults = []
    tokens = re.findall(r"[A-Za-z0-9’'-]+|[.,;:!?]", sentence)
    words = [token for token in tokens if token[0].isalnum()]
    low = [word.lower() for word in words]
    if not FEWEST_WORDS <= len(words) <= MOST_WORDS:
        faults.append(f"{len(words)} words")
    pairs = list(zip(tokens, tokens[1:], strict=False))
    twice = [a for a, b in pairs if a[0].isalnum() and a.lower() == b.lower() and a.lower() not in _MAY_DOUBLE]
    if twice:
        faults.append(f"{twice[0]!r} twice in a row")
    runs = list(zip(low, low[1:], low[2:], low[3:], strict=False))
    if len(set(runs)) < len(runs):
        faults.append("four words repeated")
    wrong = [f"{a} {b}" for a, b in pairs if b[0].isalnum() and _article_is_wrong(a.lower(), b)]
    if wrong:
        faults.append(f"article in {wrong[0]!r}")
    if not _FUNCTION_WORDS & set(low):
        faults.append("no function word")
    clash = [
        f"{low[at]} {low[at + 1]}"
        for at in range(len(low) - 1)
        if low[at + 1] in _CLASHES.get(low[at], ()) and (at == 0 or low[at - 1] not in _EXCUSES)
    ]
    if clash:
        faults.append(f"agreement in {clash[0]!r}")
    return faults


def _article_is_wrong(article: str, word: str) -> bool:
    if article not in ("a", "an") or not word[0].isalnum() or len(word) == 1 or word.isupper():
        return False
    vowel = (
        not _VOWEL_SPELLED_CONSONANT.match(word)
        if word[0].lower() in "aeiou"
        else bool(_CONSONANT_SPELLED_VOWEL.match(word))
    )
    return vowel != (article == "an")

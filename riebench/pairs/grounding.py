"""Grounding phrases by rule, from the brackets of a pair's prompts and PIE-Bench's ``blended_word``.

The masker looks for these phrases in the pictures. RIEBench's own were chosen by hand; this rule finds phrases of
the same kind, and is the same for any prompts:

1. A prompt is cut into *runs*: words in a row without punctuation, function words (articles, prepositions,
   conjunctions, pronouns, auxiliaries, small numbers) and verbs. A word counts as a verb if it ends in ``-ing``, but
   not right after an article, before "of" or at the end of a span ("a painting of"); or if a function word follows
   and it ends in ``-ed`` ("surrounded by") or, when "a" or "an" began the run, in ``-s`` ("a crow lands on").
2. The *span* is what stands in brackets. It gives runs *inside* it, the run that goes on *after* it ("a [red] jug":
   "jug"), and the *subject*: the first run outside brackets, but not one that "of" follows ("a painting of a fox").
3. The category decides which of them is the phrase, the first that is not empty:

   ================================  =====================  =========================
   category                          original phrase        edit phrase
   ================================  =====================  =========================
   1 object                          inside, after          inside, after
   2 add object                      subject                inside
   3 delete object                   inside                 ``background``
   4 content, 6 colour, 7 material   after, inside          after, inside
   5 pose                            after, subject         after, subject
   8 background                      ``background``         ``background``
   9 style                           ``#everything``        ``#everything``
   ================================  =====================  =========================

   In 4 to 7 a prompt without brackets takes the other prompt's runs outside its span (after, before). If only the edit
   has a span, the words beside the span take precedence over it ("a calf [statue]": "calf").
4. With a ``blended_word``, the first of the runs that contains it is the phrase, so that "street lamp" stays whole; if
   no run contains it, the word itself is. In 2 and 3 only the runs inside the span count.

The original phrase of 2 and the edit phrase of 3 are not used by the masks (see :func:`riebench.masks.pair_regions`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from riebench.pairs.brackets import mark_whole_words

BACKGROUND, EVERYTHING = "background", "#everything"


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


DETERMINERS = _set("a an the this that these those my your his her its our their")
FUNCTION_WORDS = DETERMINERS | _set(
    """some any each no all both another other one two three four five six seven eight nine ten
    and or but nor as than then while which who where there it they them he him she we us you i me
    in on at of by to for from with without into onto over under above below behind beside between among near next
    through across along around about against inside outside toward towards upon up down off out like
    is are was were be been being am has have had do does did will would can could very"""
)
BEFORE_OF = _set("front top middle back side")
"""Function words only where "of" follows: "in front of"."""
_PARTICIPLE = re.compile(r"..[^e]ed$")
_THIRD_PERSON = re.compile(r"[^su]s$")
_TOKEN = re.compile(r"[\[\]]|[^\s\[\],.;:!?]+|[,.;:!?]")


def is_everything(phrase: str) -> bool:
    """Whether a phrase names the whole picture, in small or capital letters."""
    return phrase.strip().lower() == EVERYTHING


def is_background(phrase: str) -> bool:
    """Whether a phrase names all but the foreground, in small or capital letters."""
    return BACKGROUND in phrase.lower()


def special_in_capitals(phrase: str) -> bool:
    """Whether a phrase would be an ordinary one if capital letters mattered."""
    background = is_background(phrase) and BACKGROUND not in phrase
    return background or (is_everything(phrase) and phrase.strip() != EVERYTHING)


def unbalanced(prompt: str) -> bool:
    """Whether the square brackets of a prompt do not pair up, or are nested."""
    return re.fullmatch(r"[^\[\]]*(\[[^\[\]]*\][^\[\]]*)*", prompt) is None


@dataclass(frozen=True)
class Marked:
    """A prompt's words, and the spans ``(start, end)`` of them that stand in brackets."""

    words: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, prompt: str) -> Marked:
        """Read a prompt whose brackets pair up; punctuation marks are words of their own."""
        words: list[str] = []
        spans: list[tuple[int, int]] = []
        start = 0
        for token in _TOKEN.findall(mark_whole_words(prompt)):
            if token == "[":
                start = len(words)
            elif token == "]":
                spans.append((start, len(words)))
            else:
                words.append(token)
        return cls(tuple(words), tuple(spans))

    def _function(self, i: int) -> bool:
        """Whether word i is a function word or punctuation, or beyond the prompt."""
        if not 0 <= i < len(self.words) or not self.words[i][0].isalnum():
            return True
        word, following = (w.lower() for w in (*self.words, "")[i : i + 2])
        return word in FUNCTION_WORDS or (word in BEFORE_OF and following == "of")

    def _verb(self, i: int) -> bool:
        """Whether word i counts as a verb (rule 1)."""
        word = self.words[i].lower()
        if word.endswith("ing"):
            return not (self._after_determiner(i) or self._ends_span(i) or self.words[i + 1 : i + 2] == ("of",))
        if not self._function(i + 1):
            return False
        return bool(_PARTICIPLE.search(word) or (_THIRD_PERSON.search(word) and self._has_noun(i)))

    def _after_determiner(self, i: int) -> bool:
        return i > 0 and self.words[i - 1].lower() in DETERMINERS

    def _ends_span(self, i: int) -> bool:
        """Whether word i is the last one of a span, but for a conjunction ("[bunting and]")."""
        return any(start <= i < end and set(self.words[i + 1 : end]) <= {"and", "or"} for start, end in self.spans)

    def _has_noun(self, i: int) -> bool:
        """Whether "a" or "an" and at least one more word lead up to word i."""
        start = i
        while not self._function(start - 1) and not self.words[start - 1].endswith("ing"):
            start -= 1
        return 0 < start < i and self.words[start - 1].lower() in {"a", "an"}

    def _runs(self, positions: list[int]) -> list[str]:
        """The runs of the words at some positions."""
        runs: list[list[str]] = []
        last = -2
        for i in positions:
            if self._function(i) or self._verb(i):
                continue
            if i != last + 1:
                runs.append([])
            runs[-1].append(self.words[i])
            last = i
        return [" ".join(run) for run in runs]

    @cached_property
    def inside(self) -> list[str]:
        """The runs inside the spans."""
        return [run for start, end in self.spans for run in self._runs(list(range(start, end)))]

    @cached_property
    def after(self) -> list[str]:
        """The run that begins where the last span ends, in a list; empty if no run begins there."""
        end = self.spans[-1][1] if self.spans else len(self.words)
        goes_on = end < len(self.words) and not self._function(end) and not self._verb(end)
        return self._runs(list(range(end, len(self.words))))[:1] if goes_on else []

    @cached_property
    def before(self) -> list[str]:
        """The last run outside brackets before the last span, in a list; empty if there is none."""
        end = self.spans[-1][0] if self.spans else 0
        return self._runs([i for i in self._outside if i < end])[-1:]

    @cached_property
    def _outside(self) -> list[int]:
        return [i for i in range(len(self.words)) if not any(a <= i < b for a, b in self.spans)]

    @cached_property
    def subject(self) -> list[str]:
        """The first run outside brackets that "of" does not follow, else the first run, in a list."""
        runs = self._runs(self._outside)
        text = " ".join(self.words)
        return ([run for run in runs if f"{run} of " not in text] or runs)[:1]


def grounding_phrases(
    category: int, original: str, edit: str, blended: tuple[str, str] = ("", "")
) -> tuple[str | None, str | None]:
    """The grounding phrases of an original and an edit prompt, by the rule of this module.

    Args:
        category: 1 to 9.
        original: the original prompt, with balanced brackets around the changed words.
        edit: the edit prompt, likewise.
        blended: PIE-Bench's word for the thing in the original and in the edit; empty for none.

    Returns:
        The phrases for the base image and for the source image; None where the rule finds no phrase.
    """
    if category in (8, 9):
        phrase = BACKGROUND if category == 8 else EVERYTHING
        return phrase, phrase
    base, source = Marked.parse(original), Marked.parse(edit)
    if category == 2:
        return _chosen(source.subject, blended[0]), _first(source.inside, blended[1])
    if category == 3:
        return _first(base.inside, blended[0]), BACKGROUND
    return (
        _chosen(_candidates(category, base, source), blended[0]),
        _chosen(_candidates(category, source, base), blended[1]),
    )


def _candidates(category: int, own: Marked, other: Marked) -> list[str]:
    """The runs of one prompt that may be its phrase, the likeliest first."""
    if category == 1:
        return own.inside + own.after
    if not own.spans:
        own, other = other, own
        return own.after + (own.subject if category == 5 else own.before)
    if category == 5:
        return own.after + own.subject
    return own.after + ([] if other.spans else own.before) + own.inside


def _first(runs: list[str], blended: str) -> str | None:
    """The run that contains the blended word, or else the first."""
    return next((run for run in runs if blended and _contains(run, blended)), runs[0] if runs else blended or None)


def _chosen(runs: list[str], blended: str) -> str | None:
    """The run that contains the blended word, or else the word; the first run if there is no such word."""
    if not blended:
        return runs[0] if runs else None
    return next((run for run in runs if _contains(run, blended)), blended)


def _contains(run: str, word: str) -> bool:
    return word.lower() in run.lower().split()

"""Write contrasts for pairs from the pairs' own words: the change of a pair in the sentences of others. Needs no torch.

``a cute little [duck] with big eyes`` and ``a cute little [marmot] with big eyes`` change a duck into a marmot. Another
pair of the category gives the sentence ``a girl and her [dog] in a field``, which becomes ``a girl and her [duck] in a
field`` and ``a girl and her [marmot] in a field``.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from riebench.pairs.brackets import mark_whole_words, without_brackets
from riebench.pairs.contrasts import plain
from riebench.pairs.grounding import is_background, is_everything
from riebench.pairs.pair import Pair

_MARKED = re.compile(r"\[([^\]]*)\]")
_SLOT = "[]"
_ARTICLE = re.compile(r"\b([Aa])n?(?= \[?([a-z]))")
"""An article with the first letter of the next word."""


_PREPOSITIONS = frozenset(
    [
        *("of", "with", "without", "in", "on", "at", "by", "near", "from", "to", "under", "over", "behind", "beside"),
        *("into", "as", "and", "wearing", "holding"),
    ]
)
_ARTICLES = frozenset(["a", "an", "the"])
OPENINGS = ("a picture of", "a photo of", "a view of")
"""Put before a sentence whose slot is empty in one prompt: that prompt would be one of the other pair's."""


class Edit(NamedTuple):
    """A pair as a sentence with slots, and what fills them.

    Attributes:
        frame: the sentence, ``[]`` in the place of each slot.
        before: the words of each slot in the original prompt; empty where there are none.
        after: those of the edit prompt.
    """

    frame: str
    before: tuple[str, ...]
    after: tuple[str, ...]


class Written(NamedTuple):
    """Contrasts of pairs.

    Attributes:
        lines: by the id of the pair: original prompt, edit prompt, and their grounding phrases.
        left_out: by the id of the pair, why it has none.
    """

    lines: dict[str, list[tuple[str, str, str, str]]]
    left_out: dict[str, str]


def edit_of(pair: Pair) -> Edit | None:
    """The sentence of a pair; None if its prompts do not mark the change alike."""
    original, edit = map(mark_whole_words, (pair.original_prompt, pair.editing_prompt))
    before, after = tuple(_MARKED.findall(original)), tuple(_MARKED.findall(edit))
    frame = _MARKED.sub(_SLOT, original if before else edit)
    if not before or not after:
        before, after = before or ("",) * len(after), after or ("",) * len(before)
    marked = len(before) == len(after) and any(word.strip() for word in (*before, *after))
    return Edit(frame, before, after) if marked else None


def write_contrasts(pairs: Sequence[Pair], count: int) -> Written:
    """At most ``count`` contrasts for each pair, in the sentences of other pairs of its category.

    Prompts of the pairs themselves are never among them. Which sentences come first is drawn by the ids.
    """
    edits = {pair.id: edit for pair in pairs if (edit := edit_of(pair))}
    reported = {plain(prompt) for pair in pairs for prompt in (pair.base_prompt, pair.edit_prompt)}
    written = Written({}, {})
    for pair in pairs:
        if pair.id not in edits:
            written.left_out[pair.id] = "its prompts do not mark the change in as many places with square brackets"
            continue
        others = [other for other in pairs if other.editing_type_id == pair.editing_type_id and other.id in edits]
        others.sort(key=lambda other: zlib.crc32(f"{pair.id} {other.id}".encode()))
        lines: dict[tuple[str, str], tuple[str, str, str, str]] = {}
        for line in _lines(pair, edits[pair.id], [(other, edits[other.id]) for other in others]):
            sides = plain(without_brackets(line[0])), plain(without_brackets(line[1]))
            if not reported & set(sides) and sides[0] != sides[1]:
                lines.setdefault(sides, line)
        if lines:
            written.lines[pair.id] = list(lines.values())[:count]
        else:
            written.left_out[pair.id] = "no other pair of its category has a sentence for its words"
    return written


def _lines(pair: Pair, edit: Edit, others: Sequence[tuple[Pair, Edit]]) -> Iterator[tuple[str, str, str, str]]:
    for other, sentence in others:
        if _kinds(sentence) != _kinds(edit):
            continue
        phrases = (
            _phrase(pair.original_gsam_prompt, (*edit.before, *edit.after), other.original_gsam_prompt, sentence),
            _phrase(pair.editing_gsam_prompt, (*edit.before, *edit.after), other.editing_gsam_prompt, sentence),
        )
        if phrases[0] and phrases[1]:
            opening = OPENINGS[zlib.crc32(other.id.encode()) % len(OPENINGS)]
            frame = sentence.frame if all((*edit.before, *edit.after)) else f"{opening} {sentence.frame}"
            yield filled(frame, edit.before), filled(frame, edit.after), *phrases


def _kinds(edit: Edit) -> list[tuple[bool, bool, bool]]:
    """How the words of each slot begin and end: with a preposition, an article; they fit slots of the same kind."""
    kinds = []
    for both in zip(edit.before, edit.after, strict=True):
        words = plain(both[0] if both[0].strip() else both[1]).split() or [""]
        kinds.append((words[0] in _PREPOSITIONS, words[0] in _ARTICLES, words[-1] in _PREPOSITIONS))
    return kinds


def _phrase(own: str, own_words: tuple[str, ...], other: str, sentence: Edit) -> str:
    """The phrase in another sentence: the pair's own if its words name it, else the sentence's, or empty."""
    if is_everything(own) or is_background(own) or "~" in own or plain(own).split()[-1] in _words_in(own_words):
        return own
    gone = _words_in((*sentence.before, *sentence.after))
    kept = [word for word in plain(other).split() if word not in gone]
    return " ".join(kept) if kept and kept[-1] == plain(other).split()[-1] else ""


def _words_in(texts: Sequence[str]) -> set[str]:
    return set(plain(" ".join(texts)).split())


def filled(frame: str, words: Sequence[str]) -> str:
    """A sentence with words in its slots, in brackets unless they are empty; ``a`` and ``an`` follow the next word."""
    for word in words:
        frame = frame.replace(_SLOT, f"[{word.strip()}]" if word.strip() else "", 1)
    frame = re.sub(r"\s+([,.])", r"\1", " ".join(frame.split()))
    return _ARTICLE.sub(lambda match: match[1] + ("n" if match[2] in "aeiou" else ""), frame)

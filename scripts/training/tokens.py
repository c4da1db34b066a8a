"""The tokenizer of mini: CLIP's own class, with merges under which every word of the grammar is one token."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import CLIPTokenizer, T5Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from riebench.mini.grammar import VOCABULARY

LENGTH = 24
END = "</w>"


def _apply(tokens: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Merge in order of rank, as byte pair encoding does."""
    for a, b in merges:
        i = 0
        while i < len(tokens) - 1:
            if (tokens[i], tokens[i + 1]) == (a, b):
                tokens[i : i + 2] = [a + b]
            i += 1
    return tokens


def merges_for(words: list[str]) -> list[tuple[str, str]]:
    """Merges that make each word one token; each word is simulated under the merges already there."""
    merges: list[tuple[str, str]] = []
    for word in words:
        tokens = _apply([*word[:-1], word[-1] + END], merges)
        while len(tokens) > 1:
            merges.append((tokens[0], tokens[1]))
            tokens = _apply(tokens, merges)
    return merges


def write(folder: Path) -> CLIPTokenizer:
    """Write ``vocab.json`` and ``merges.txt`` and the tokenizer's configuration; return the tokenizer.

    Raises:
        RuntimeError: if a word of the grammar comes out as more than one token.
    """
    folder.mkdir(parents=True, exist_ok=True)
    merges = merges_for(VOCABULARY)
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(c + END for c in letters), *(a + b for a, b in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False))
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    tokenizer = CLIPTokenizer(
        vocab={t: i for i, t in enumerate(tokens)},
        merges=merges,
        model_max_length=LENGTH,
        pad_token="<|endoftext|>",
    )
    for word in VOCABULARY:
        if len(tokenizer.tokenize(word)) != 1:
            raise RuntimeError(f"{word!r} splits into {tokenizer.tokenize(word)}")
    tokenizer.save_pretrained(folder)
    return tokenizer


def t5() -> T5Tokenizer:
    """T5's class with every word of the grammar as one token; other words are read letter by letter."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(chr(code), -12.0) for code in range(33, 127)]
    words = [(f"▁{word}", -1.0) for word in VOCABULARY]
    return T5Tokenizer([*special, *letters, *words], extra_ids=0, model_max_length=LENGTH)

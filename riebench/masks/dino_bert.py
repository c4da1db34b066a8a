"""The text encoder of Grounding DINO from a local folder, under transformers 5.

Grounding DINO wraps a ``BertModel`` and calls three of its methods that transformers 5 removed or changed. A subclass
has them here, so that no other BERT of the process changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizer

from riebench.masks.gsam_loading import gsam_module
from riebench.util.errors import UserError

ADDRESS = "https://huggingface.co/google-bert/bert-base-uncased"
VOCABULARIES = ("tokenizer.json", "vocab.txt")  # one of them is enough; the first takes precedence
FILES = ("config.json", "tokenizer_config.json", *VOCABULARIES)


class DinoBertConfig(BertConfig):
    """BERT's settings with a name that the wrapper reads and transformers 5 deprecates."""

    @property
    def use_return_dict(self) -> bool:
        """Outputs by name."""
        return True


class DinoBert(BertModel):
    """BERT with the three methods of transformers 4 that Grounding DINO's wrapper calls.

    The wrapper also calls the embeddings with an argument of transformers 4, which is dropped.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.embeddings.register_forward_pre_hook(_without_past, with_kwargs=True)

    def get_extended_attention_mask(
        self, attention_mask: Tensor, input_shape: Any = None, device: Any = None
    ) -> Tensor:
        """The numbers that attention adds to its scores: 0 where it may look, the lowest number elsewhere.

        Args:
            attention_mask: ``[n, tokens]`` (1 = a token, 0 = padding), or ``[n, tokens, tokens]``, which token
                may look at which: Grounding DINO keeps the phrases of a caption apart with it.
            input_shape: ignored.
            device: ignored.

        Returns:
            ``[n, 1, 1, tokens]`` or ``[n, 1, tokens, tokens]``, which broadcasts over the heads.
        """
        if attention_mask.dim() not in (2, 3):
            raise ValueError(f"an attention mask has 2 or 3 dimensions, not {attention_mask.dim()}")
        seen = attention_mask[:, None, None, :] if attention_mask.dim() == 2 else attention_mask[:, None, :, :]
        return torch.where(seen.bool(), 0.0, torch.finfo(self.dtype).min).to(self.dtype)

    def invert_attention_mask(self, encoder_attention_mask: Tensor) -> Tensor:
        """See :meth:`get_extended_attention_mask`; an encoder has no cross-attention."""
        return self.get_extended_attention_mask(encoder_attention_mask)

    def get_head_mask(self, head_mask: Tensor | None, num_hidden_layers: int) -> list[None]:
        """One None for each layer: no head is masked.

        Raises:
            ValueError: if there is a head mask; transformers 5 has none.
        """
        if head_mask is not None:
            raise ValueError("head masks are not supported")
        return [None] * num_hidden_layers


def _without_past(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The arguments of a call without the length of a cache; an encoder has no cache."""
    return args, {name: value for name, value in named.items() if name != "past_key_values_length"}


def read_tokenizer(folder: Path) -> BertTokenizer:
    """The tokenizer of a folder in the layout of bert-base-uncased.

    Raises:
        UserError: if a file is missing or damaged.
    """
    return _read(BertTokenizer, folder)


def random_bert(folder: Path) -> DinoBert:
    """A text encoder of the sizes that a folder's ``config.json`` gives.

    Its weights stay random until the detector's checkpoint is loaded, which holds the whole text encoder as it
    was trained with the detector; the folder's own ``model.safetensors`` is not read.

    Raises:
        UserError: if a file is missing or damaged.
    """
    return DinoBert(_read(DinoBertConfig, folder))


def _read(kind: Any, folder: Path) -> Any:
    if not (folder / "config.json").is_file() or not any((folder / name).is_file() for name in VOCABULARIES):
        raise UserError(f"{folder} has no config.json or no tokenizer.json; get {', '.join(FILES)} of {ADDRESS}")
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise UserError(f"the text encoder {folder} cannot be read ({first}); get {ADDRESS} again") from None


@contextmanager
def text_encoder(tokenizer: BertTokenizer, bert: DinoBert) -> Iterator[None]:
    """Let Grounding DINO's constructor use this tokenizer and this text encoder inside the ``with`` statement.

    The constructor gets both from a helper module of its own package, which would return a plain ``BertModel``; the
    helper is replaced meanwhile.
    """
    package = gsam_module("groundingdino.models.GroundingDINO.groundingdino")
    helper = package.get_tokenlizer
    package.get_tokenlizer = SimpleNamespace(
        get_tokenlizer=lambda _: tokenizer, get_pretrained_language_model=lambda _: bert
    )
    try:
        yield
    finally:
        package.get_tokenlizer = helper

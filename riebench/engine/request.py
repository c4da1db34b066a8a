"""What was asked for, as ``run.json`` keeps it, so that the same can be asked for again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from riebench.catalog import entry_named
from riebench.engine.instruments import Given
from riebench.engine.run import RunSpec
from riebench.util.errors import UserError
from riebench.pairs import Pair, load_pairs, select
from riebench.records import read_run
from riebench.spec.settings import Settings
from riebench.util.files import file_hash


class Request(BaseModel):
    """A run as it was asked for.

    Attributes:
        spec: methods, blocks, model and the rest.
        pair_file: where the pairs come from; None for the model's own.
        pair_hash: SHA-256 of that file.
        pair_ids: the pairs that were chosen.
        keep_images: pairs of each category whose pictures are kept.
        handed_in: names of loaded objects that took part, which no file keeps.
    """

    model_config = ConfigDict(frozen=True)

    spec: RunSpec
    pair_file: Path | None = None
    pair_hash: str | None = None
    pair_ids: list[str] = []
    keep_images: int = 0
    handed_in: list[str] = []

    @classmethod
    def of(
        cls, spec: RunSpec, pairs: Sequence[Pair], pair_file: Path | None, keep_images: int, given: Given | None
    ) -> Request:
        """What is being asked for.

        Args:
            spec: of the run.
            pairs: the chosen pairs.
            pair_file: their file; None if they were handed in.
            keep_images: pairs of each category whose pictures are kept.
            given: loaded parts.
        """
        handed = [name for name in ("pipeline", "saes", "masks", "scorers") if getattr(given, name, None) is not None]
        own = pair_file is not None and pair_file == entry_named(spec.model).pairs
        return cls(
            # A copy that stands wherever the next process does.
            spec=replace(spec, settings=_anchored(spec.settings)),
            pair_file=None if own or pair_file is None else pair_file.resolve(),
            pair_hash=None if pair_file is None else file_hash(pair_file),
            pair_ids=[pair.id for pair in pairs],
            keep_images=keep_images,
            handed_in=handed if pair_file is not None else [*handed, "pairs"],
        )

    @property
    def source(self) -> Path:
        """The pair file."""
        file = self.pair_file or entry_named(self.spec.model).pairs
        if file is None:
            raise UserError(f"{self.spec.model} has no pairs of its own, and run.json names no pair file")
        return file

    def pairs(self) -> list[Pair]:
        """The same pairs again.

        Raises:
            UserError: if objects were handed in, or the pair file is gone or has changed.
        """
        if self.handed_in:
            what = ", ".join(self.handed_in)
            raise UserError(f"the run cannot be repeated from its folder: {what} were handed in from Python")
        if not self.source.is_file():
            raise UserError(f"the pair file {self.source} of the run is gone; put it back, or use 'riebench run'")
        if file_hash(self.source) != self.pair_hash:
            said = "has changed since the run; put the old one back, or use 'riebench run'"
            raise UserError(f"the pair file {self.source} {said}")
        return select(load_pairs(self.source), ids=self.pair_ids)


def requests_of(folder: Path) -> list[Request]:
    """What was asked for in the sessions of a run folder, each request once.

    Raises:
        UserError: if ``run.json`` does not say.
    """
    sessions = read_run(folder).get("sessions") or []
    try:
        found = [Request.model_validate(session["request"]) for session in sessions]
    except (ValidationError, KeyError, TypeError):
        raise UserError(f"{folder / 'run.json'} does not say what was run; use 'riebench run'") from None
    if not found:
        raise UserError(f"{folder} has no run.json that says what was run; give the folder of a run")
    return [request for number, request in enumerate(found) if request not in found[:number]]


def _anchored(settings: Settings) -> Settings:
    """Settings whose paths are absolute."""

    def anchor(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: anchor(inner) for name, inner in value.items()}
        return value.resolve() if isinstance(value, Path) else value

    content = anchor(settings.model_dump())
    source = settings.model.source  # a folder, or a name on the hub
    if source is not None and Path(source).is_dir():
        content["model"]["source"] = str(Path(source).resolve())
    return Settings.model_validate(content)

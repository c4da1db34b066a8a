"""A folder of an ablation: its facts (``ablation.json``), a line for each prompt and set of blocks. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from riebench.ablation.ablation_request import AblationRequest, BlockSet
from riebench.records.code import code_version
from riebench.records.folder import RECORDS
from riebench.records.image_hashes import IMAGES
from riebench.records.schema import Value
from riebench.util.errors import UserError
from riebench.util.files import remove_torn
from riebench.util.json_lines import joined_lines, read_lines
from riebench.util.work_folder import WorkFolder

ABLATION = "ablation.json"


class Ablation(BaseModel):
    """The facts of an ablation. Two folders whose facts differ in the prompts alone have equal records of one prompt.

    Attributes:
        model: its name.
        parts: fingerprints of the weights that took part.
        metric_names: names of CLIP and LPIPS.
        conditions: settings that can change numbers.
        steps: denoising steps.
        sets: the sets of blocks that are zeroed in turn.
        truth: whether the attributes of each picture are read.
        location: of the prompts.
        prompts: their number.
        prompts_sha256: of prompts and seeds, in order.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    parts: dict[str, str]
    metric_names: dict[str, str]
    conditions: dict[str, Value]
    steps: int
    sets: tuple[BlockSet, ...]
    truth: bool
    location: str
    prompts: int
    prompts_sha256: str

    def but_the_prompts(self) -> dict[str, Any]:
        """The facts that all records of a folder must share."""
        return self.model_dump(exclude={"location", "prompts", "prompts_sha256"})


class Stored(BaseModel):
    """The content of ``ablation.json``.

    Attributes:
        riebench_ablation: version of the layout.
        ablation: its facts; ``asked`` in the file.
        code: that made its first record.
    """

    model_config = ConfigDict(populate_by_name=True)

    riebench_ablation: Literal[1] = 1
    ablation: Ablation = Field(alias="asked")
    code: dict[str, str | bool | None]


class Zeroing(BaseModel):
    """The record of a prompt and a set of blocks: how the picture changes as the updates of the blocks are zeroed.

    Attributes:
        prompt: of the picture.
        seed: of the picture.
        blocks: whose updates were zeroed.
        status: ``failed`` if there is no picture.
        lpips: to the untouched picture.
        clip: similarity of the picture with the prompt; None if CLIP does not read the end of the prompt.
        clip_untouched: the same of the untouched picture.
        untouched: attribute to the value that the untouched picture shows, where pictures are read.
        zeroed: the same of this picture.
        reason: why there is no picture.
    """

    prompt: str
    seed: int
    blocks: BlockSet
    status: Literal["ok", "failed"] = "ok"
    lpips: float | None = None
    clip: float | None = None
    clip_untouched: float | None = None
    untouched: dict[str, str] | None = None
    zeroed: dict[str, str] | None = None
    reason: str | None = None


def set_name(blocks: Iterable[str]) -> str:
    """The name of a set of blocks, as ``mid.0+up.0.0``."""
    return "+".join(blocks)


def image_name(number: int, blocks: Iterable[str]) -> str:
    """The path in the folder of the picture of a prompt, by its number; without blocks, of the untouched picture."""
    return f"{IMAGES}/{number:03d}-{set_name(blocks) or 'untouched'}.png"


def read_stored(folder: Path) -> Stored | None:
    """The content of ``ablation.json``; None if the folder has none yet.

    Raises:
        UserError: if it cannot be read, or the folder holds other records.
    """
    try:
        return Stored.model_validate_json((folder / ABLATION).read_bytes())
    except FileNotFoundError:
        if (folder / RECORDS).exists():
            raise UserError(f"{folder} holds records of no ablation; give another --out") from None
        return None
    except (ValidationError, OSError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise UserError(f"{folder / ABLATION} cannot be read ({reason}); give another --out") from None


def refuse_others(before: Ablation, request: AblationRequest, folder: Path) -> None:
    """Refuse a folder of another ablation, as far as its facts are known without weights (UserError)."""
    both: dict[str, tuple[Any, Any]] = {
        "model": (before.model, request.entry.name),
        "steps": (before.steps, request.steps),
        "blocks": (_sets_text(before.sets), _sets_text(request.sets)),
    }
    for name, (has, expected) in both.items():
        if has != expected:
            raise UserError(f"{folder} holds an ablation of other {name}: {has}, not {expected}; give another --out")
    prompted = set(request.prompted)
    for zeroing in read_zeroings(folder):
        if (zeroing.prompt, zeroing.seed) not in prompted:
            prompt = f"the prompt {zeroing.prompt[:40]!r} (seed {zeroing.seed}), which is not asked for"
            raise UserError(f"{folder} holds {prompt}; give another --out")


def _sets_text(sets: Iterable[BlockSet]) -> str:
    return ",".join(map(set_name, sets))


def read_zeroings(folder: Path) -> list[Zeroing]:
    """The records of a folder; a torn last line is left out with a warning.

    Raises:
        UserError: if another line is damaged.
    """
    try:
        return read_lines(folder / RECORDS, Zeroing.model_validate_json)
    except FileNotFoundError:
        return []


class AblationFolder(WorkFolder):
    """The folder of an ablation, inside a ``with`` statement; see :class:`riebench.util.work_folder.WorkFolder`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, ABLATION)

    def begin(self, ablation: Ablation) -> list[Zeroing]:
        """Write the facts, remove records of unfinished prompts and return those of finished ones.

        So a prompt is made again in the batches that it has in an unbroken run.

        Raises:
            UserError: if the folder holds another ablation, or cannot be written.
        """
        stored = read_stored(self.path)
        if stored is not None and stored.ablation.but_the_prompts() != ablation.but_the_prompts():
            difference = "weights" if stored.ablation.parts != ablation.parts else "settings"
            raise UserError(f"{self.path} holds an ablation made with other {difference}; give another --out")
        stored = Stored(ablation=ablation, code=stored.code if stored else code_version())
        self.write(ABLATION, (stored.model_dump_json(indent=1, by_alias=True) + "\n").encode())
        remove_torn(self.path / IMAGES)
        zeroings = read_zeroings(self.path)
        by_seed: dict[int, set[BlockSet]] = {}
        for zeroing in zeroings:
            by_seed.setdefault(zeroing.seed, set()).add(zeroing.blocks)
        whole = [zeroing for zeroing in zeroings if len(by_seed[zeroing.seed]) == len(ablation.sets)]
        self.rewrite(whole)
        return whole

    def rewrite(self, zeroings: Iterable[Zeroing]) -> None:
        """Write all records, unless the file has them already (UserError)."""
        data, file = _lines(zeroings), self.path / RECORDS
        if not file.exists() or file.read_bytes() != data:
            self.write(RECORDS, data)

    def append(self, zeroings: Iterable[Zeroing]) -> None:
        """Add the records of a prompt, and have them on the disk before returning (UserError)."""
        self.append_to(RECORDS, _lines(zeroings))


def _lines(zeroings: Iterable[Zeroing]) -> bytes:
    return joined_lines(zeroing.model_dump_json(exclude_none=True) for zeroing in zeroings)

"""A folder of an ablation: what was asked (``ablation.json``), a line for each prompt and set of blocks. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from riebench.ablation.ablation_request import AblationRequest, BlockSet
from riebench.records.folder import IMAGES, RECORDS, append_whole
from riebench.records.schema import Value
from riebench.util.errors import UserError
from riebench.util.files import write_whole

ABLATION = "ablation.json"


class Ablation(BaseModel):
    """What an ablation is of. Records of one prompt are equal in folders that are equal in all but the prompts.

    Attributes:
        model: its name.
        parts: fingerprints of the weights that took part.
        metric_names: names of CLIP and LPIPS.
        conditions: settings that can change numbers.
        steps: denoising steps.
        sets: what is zeroed in turn.
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
        """What all records of a folder must share."""
        return self.model_dump(exclude={"location", "prompts", "prompts_sha256"})


class Stored(BaseModel):
    """The content of ``ablation.json``.

    Attributes:
        riebench_ablation: version of the layout.
        asked: what the folder is for.
        code: that made its first record.
    """

    riebench_ablation: Literal[1] = 1
    asked: Ablation
    code: dict[str, str | bool | None]


class Zeroing(BaseModel):
    """What became of the picture of one prompt as the updates of a set of blocks were zeroed.

    Attributes:
        prompt: of the picture.
        seed: of the picture.
        blocks: whose updates were zeroed.
        status: ``failed`` if there is no picture.
        lpips: to the untouched picture.
        clip: similarity of the picture with the prompt.
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
    """How a set of blocks is written: ``mid.0+up.0.0``."""
    return "+".join(blocks)


def image_path(folder: Path, number: int, blocks: Iterable[str]) -> Path:
    """Where the picture of a prompt, by its number, is kept; no blocks: the untouched one."""
    return folder / IMAGES / f"{number:03d}-{set_name(blocks) or 'untouched'}.png"


def read_stored(folder: Path) -> Stored | None:
    """What a folder is for; None if nothing is in it yet.

    Raises:
        UserError: if it is no folder, or holds something else.
    """
    try:
        return Stored.model_validate_json((folder / ABLATION).read_bytes())
    except FileNotFoundError:
        if (folder / RECORDS).exists():
            raise UserError(f"{folder} holds records of no ablation; give another --out") from None
        return None
    except NotADirectoryError:
        raise UserError(f"{folder} is no folder; give another --out") from None
    except (ValidationError, OSError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise UserError(f"{folder / ABLATION} cannot be read ({said}); give another --out") from None


def refuse_others(there: Ablation, request: AblationRequest, folder: Path) -> None:
    """Refuse a folder of another ablation, as far as that is known without weights (UserError)."""
    both: dict[str, tuple[Any, Any]] = {
        "model": (there.model, request.entry.name),
        "steps": (there.steps, request.steps),
        "blocks": (_sets_text(there.sets), _sets_text(request.sets)),
    }
    for name, (has, wanted) in both.items():
        if has != wanted:
            raise UserError(f"{folder} holds an ablation of other {name}: {has}, not {wanted}; give another --out")
    wanted_prompts = set(request.prompted)
    for one in read_zeroings(folder):
        if (one.prompt, one.seed) not in wanted_prompts:
            said = f"the prompt {one.prompt[:40]!r} (seed {one.seed}), which is not asked for"
            raise UserError(f"{folder} holds {said}; give another --out")


def _sets_text(sets: Iterable[BlockSet]) -> str:
    return ",".join(map(set_name, sets))


def write_stored(folder: Path, stored: Stored) -> None:
    """Write ``ablation.json`` (OSError)."""
    write_whole(folder / ABLATION, (stored.model_dump_json(indent=1) + "\n").encode())


def read_zeroings(folder: Path) -> list[Zeroing]:
    """The records of a folder; a torn last line is left out.

    Raises:
        UserError: if another line is damaged.
    """
    lines = (folder / RECORDS).read_bytes().split(b"\n") if (folder / RECORDS).exists() else []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(Zeroing.model_validate_json(line))
        except ValidationError:
            if any(lines[number:]):
                raise UserError(f"{folder / RECORDS}: line {number} is damaged; give another --out") from None
    return found


def whole_prompts(folder: Path, asked: Ablation) -> list[Zeroing]:
    """The records of all prompts that are finished; what else a killed process left is taken out (OSError).

    So a prompt is made again in the batches that it has in an unbroken run.
    """
    for part in [*folder.glob("*.part"), *folder.glob(f"{IMAGES}/*.part")]:
        part.unlink()
    found = read_zeroings(folder)
    by_seed: dict[int, set[BlockSet]] = {}
    for one in found:
        by_seed.setdefault(one.seed, set()).add(one.blocks)
    whole = [one for one in found if len(by_seed[one.seed]) == len(asked.sets)]
    write_zeroings(folder, whole)
    return whole


def write_zeroings(folder: Path, zeroings: Iterable[Zeroing]) -> None:
    """Write all records, unless they stand there already (OSError)."""
    data = _lines(zeroings)
    if not (folder / RECORDS).exists() or (folder / RECORDS).read_bytes() != data:
        write_whole(folder / RECORDS, data)


def append_zeroings(folder: Path, zeroings: Iterable[Zeroing]) -> None:
    """Add the records of a prompt, and have them on the disk before returning (OSError)."""
    append_whole(folder / RECORDS, _lines(zeroings))


def _lines(zeroings: Iterable[Zeroing]) -> bytes:
    return "".join(one.model_dump_json(exclude_none=True) + "\n" for one in zeroings).encode()

"""Made-up records and run folders for the tests of reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from riebench.records import Record, RunFolder, Setting, record_key

PARTS = {"model": "mini-1", "masker": "masker-1", "clip": "clip-1", "lpips": "lpips-1"}
FOUR = ("down.2.1", "mid.0", "up.0.0", "up.0.1")


def record(pair: str, clip: float | None, lpips: float | None, **given: Any) -> Record:
    setting = Setting(
        method=given.get("method", "sae"),
        options=given.get("options", {"only_add": False}),
        blocks=given.get("blocks", ("mid.0",)),
        strength=given.get("strength", 1.0),
        steps=given.get("steps", 1),
        on_steps=given.get("on_steps"),
    )
    failed = clip is None
    metrics = {} if failed else {"clip_text_edit": clip, "lpips_base": lpips, **given.get("truth", {})}
    seed = given.get("seed", 1)
    parts = given.get("parts", PARTS)
    code = given.get("code", "")
    return Record(
        key=record_key(pair=pair, setting=setting.model_dump(mode="json"), parts=parts, seed=seed, code=code),
        status="failed" if failed else "ok",
        pair_id=pair,
        category=given.get("category", 1),
        seed=seed,
        original_prompt=given.get("prompt", "a [duck]"),
        editing_prompt="a [marmot]",
        setting=setting,
        at_lpips=given.get("at_lpips"),
        model="mini",
        protocol="riebench",
        parts=parts,
        conditions=given.get("conditions", {}),
        code={"riebench": "0.1.0", "commit": None, "dirty": None},
        made_by=given.get("made_by", {}),
        metrics=metrics,
        notes=given.get("notes", {}),
        reason=given.get("reason", "the masker finds no 'duck'") if failed else None,
        where="observing" if failed else None,
    )


def write_run(folder: Path, records: list[Record], info: dict[str, Any] | None = None) -> Path:
    with RunFolder(folder) as run:
        run.append(records)
        run.write_run(info or {"pair_file": "pairs.json", "command": ["riebench", "run"], "code": {}})
    return folder

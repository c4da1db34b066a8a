"""The checks that are made for a GPU, on the CPU at tiny size: that they run, and that they can fail."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import gpu_check
from gpu_checks import CHECKS, FAMILIES, checking
from gpu_checks.checking import Check, Skipped

from riebench.models import diffusers_model, entry_named
from riebench.models.tokens import TokenEntry
from riebench.standin import tiny_pipelines
from riebench.standin.on_device import FEW, family_networks

TINY = ["--size", "tiny", "--device", "cpu"]


def rows(out: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((out / "gpu-check.json").read_text())["checks"]
    return {row["name"]: row for row in found}


def only(*parts: str) -> list[str]:
    return [word for part in parts for word in ("--only", part)]


def test_a_part_of_the_checks_passes_at_tiny_size(tmp_path: Path) -> None:
    parts = (
        "turbo float32: pictures",
        "turbo float32: replay",
        "bfloat16: out of memory",
        "schnell bfloat16: strength 0",
    )
    assert gpu_check.main([*TINY, *only(*parts), "--out", str(tmp_path)]) == 0
    found = rows(tmp_path)
    assert len(found) == len(parts)
    assert {row["status"] for row in found.values()} == {"passed"}
    assert found["sdxl-turbo bfloat16: out of memory"]["numbers"]["rows that fit"] == 4
    assert found["flux-schnell bfloat16: strength 0"]["numbers"]["levels of strength 1"] > 0
    table = (tmp_path / "gpu-check.md").read_text()
    assert "device cpu, size tiny" in table
    assert table.count("| passed |") == len(parts)


def test_a_family_is_checked_at_tiny_size(tmp_path: Path) -> None:
    words = ["--family", "sd3", *only("pictures", "strength 0", "edit", "every method"), "--out", str(tmp_path)]
    assert gpu_check.main([*TINY, *words]) == 0, (tmp_path / "gpu-check.md").read_text()
    found = rows(tmp_path)
    assert [*found] == [f"sd3.5-medium bfloat16: {part}" for part in ("pictures", "strength 0", "edit", "every method")]
    assert found["sd3.5-medium bfloat16: edit"]["numbers"]["edit as a share"] > 0.01
    assert found["sd3.5-medium bfloat16: every method"]["numbers"]["seconds a record"] > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_at_reduced_depth_has_the_published_widths(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        tiny_pipelines, "opened", lambda network: network
    )  # it looks at the weights, which are not made
    entry = entry_named(FAMILIES[family])
    assert isinstance(entry, TokenEntry)
    with torch.device("meta"):
        transformer = family_networks(entry, "true")["transformer"]()
    config = entry.published["transformer"]
    assert entry.width(transformer.config) == entry.width(config)
    assert entry.neurons(transformer.config) == entry.neurons(config)
    assert all(len(transformer.get_submodule(blocks.path)) == FEW for blocks in entry.blocks)


def test_every_check_has_a_row_whatever_becomes_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(place: Any, numbers: dict[str, Any]) -> None:
        numbers["found"] = 1

    def broken(place: Any, numbers: dict[str, Any]) -> None:
        numbers["found"] = float("nan")
        raise RuntimeError("broken\non purpose")

    def elsewhere(place: Any, numbers: dict[str, Any]) -> None:
        raise Skipped("not here")

    checks = [check._replace(run=nothing) for check in CHECKS]
    checks[1], checks[2] = checks[1]._replace(run=broken), checks[2]._replace(run=elsewhere)
    monkeypatch.setattr(gpu_check, "CHECKS", checks)
    assert gpu_check.main([*TINY, "--out", str(tmp_path)]) == 1
    found = rows(tmp_path)
    assert list(found) == [check.name for check in CHECKS]
    assert len(found) == len(CHECKS)
    assert [row["status"] for row in found.values()] == ["passed", "failed", "skipped", *["passed"] * (len(CHECKS) - 3)]
    assert found[checks[1].name]["reason"] == "RuntimeError: broken on purpose"
    assert found[checks[2].name]["reason"] == "not here"
    assert all(row["says"] for row in found.values())
    table = (tmp_path / "gpu-check.md").read_text()
    assert f"| {checks[1].name} | failed |" in table
    assert f"{len(CHECKS) - 2} passed, 1 failed, 1 skipped" in table


def test_what_is_required_is_checked() -> None:
    names = {check.name for check in CHECKS}
    for dtype in ("float32", "float16", "bfloat16"):
        for part in ("pictures", "same twice", "strength 0", "replay", "batch size", "every method"):
            assert f"sdxl-turbo {dtype}: {part}" in names
    for part in ("offload model", "offload sequential", "out of memory", "guided", "bench"):
        assert f"sdxl-turbo bfloat16: {part}" in names
    assert {"main job", "scorers", "masker", "sdxl-turbo float32: bench", "flux-schnell bfloat16: replay"} <= names


def test_a_broken_replay_fails_its_check_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = diffusers_model.recording

    def wrong(denoiser: Any, kept: Any, rows: Any) -> Any:
        return own(denoiser, kept, [0] * len(rows))  # of the source run, not of the base run

    monkeypatch.setattr(diffusers_model, "recording", wrong)
    parts = only("turbo float32: strength 0", "turbo float32: replay", "turbo float32: batch size")
    assert gpu_check.main([*TINY, *parts, "--out", str(tmp_path)]) == 1
    found = rows(tmp_path)
    assert {name.partition(": ")[2]: row["status"] for name, row in found.items()} == {
        "strength 0": "passed",
        "replay": "failed",
        "batch size": "passed",
    }
    assert "by rounding" in found["sdxl-turbo float32: replay"]["reason"]


def test_no_check_begins_when_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "CHECKS", [Check("a", "it", lambda place, numbers: None)] * 2)
    assert gpu_check.main([*TINY, "--seconds", "-1", "--out", str(tmp_path)]) == 1
    assert rows(tmp_path)["a"]["reason"] == "not begun: -1 seconds are over"


def test_bad_input_is_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert gpu_check.main([*TINY, "--only", "nothing of the kind", "--out", str(tmp_path)]) == 2
    assert "no check has ['nothing of the kind'] in its name; known: main job" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert gpu_check.main(["--out", str(tmp_path)]) == 2
        assert (
            capsys.readouterr().err
            == "gpu_check: the device 'cuda' is not on this machine; the best one here is 'cpu'\n"
        )


def test_expectations_are_said() -> None:
    checking.expect(True, "never said")
    with pytest.raises(checking.Failed, match="said"):
        checking.expect(False, "said")


@pytest.mark.cuda
def test_all_checks_at_tiny_size_on_cuda(tmp_path: Path) -> None:
    assert gpu_check.main(["--size", "tiny", "--out", str(tmp_path)]) == 0, (tmp_path / "gpu-check.md").read_text()

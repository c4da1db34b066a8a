"""Reports on interventions that are on in some of the steps, from hand-made records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_helpers import PARTS, record, write_run

from riebench.records import Record
from riebench.report.analysis import Analysis, Options, analyse
from riebench.report.compare import compare, comparison_tables
from riebench.report.contributed import check_folder
from riebench.report.curve_figures import curves_by_category, curves_by_steps, draw_run_curve
from riebench.report.curves import curves_of
from riebench.report.frame import load_records
from riebench.report.groups import read_groups
from riebench.report.heat_maps import blocks_by_steps
from riebench.report.sheet import contact_sheets
from riebench.report.style import looks_of_intervals
from riebench.report.tables import gain_by_steps, leaderboard, legend, success_by_steps

SLOPES = {
    ("mid.0", (0,)): 0.4,
    ("mid.0", (1, 2, 3)): 0.1,
    ("mid.0", None): 0.5,
    ("up.0.1", (0,)): -0.2,
    ("up.0.1", None): 0.3,
}
"""What CLIP gains for each LPIPS, by block and steps."""


def made(slopes: dict[Any, float], truth: bool = True, strengths: tuple[int, ...] = (0, 1, 2)) -> list[Record]:
    """Records of ``sae`` on two pairs, and of ``none``, which is the same whatever the steps."""
    found = []
    for pair, base in (("p", 0.5), ("q", 0.6)):
        for (block, on_steps), slope in slopes.items():
            place = {"blocks": (block,), "on_steps": on_steps, "steps": 4}
            found.append(record(pair, base, 0.0, method="none", options={}, **place))
            for strength in strengths:
                lpips = 0.25 * strength
                known = {"edit_success": float(slope > 0 and strength > 0), "kept": 1.0}
                more = {"strength": strength, "truth": known if truth else {}}
                found.append(record(pair, base + slope * lpips, lpips, **place, **more))
    return found


def analysed(path: Path) -> Analysis:
    (group,), why = read_groups([path])
    assert not why
    return analyse(group, Options(budgets=(0.1, 0.25), rank_at=0.25, resamples=200))


@pytest.fixture
def found(tmp_path: Path) -> Analysis:
    return analysed(write_run(tmp_path / "r", made(SLOPES)))


def test_each_interval_is_an_arm_and_none_is_one(found: Analysis) -> None:
    assert found.intervals == ["0", "1-3", "all"]
    assert found.main_interval == "all"
    names = {arm.name for arm in found.arms}
    assert names == {
        *("sae steps 0, mid.0", "sae steps 1-3, mid.0", "sae all steps, mid.0"),
        *("sae steps 0, up.0.1", "sae all steps, up.0.1", "none"),
    }
    gains = {arm.name: row for arm, row in zip(found.arms, found.overall["gain"], strict=True)}
    assert gains["sae steps 0, mid.0"] == pytest.approx(0.4 * 0.25)
    assert "Steps: those of the denoising steps, counted from 0, in which the intervention is on." in legend(found)
    assert leaderboard(found).rows[0][2:4] == ["sae all steps", "mid.0"]


def test_all_steps_alone_are_not_spoken_of(tmp_path: Path) -> None:
    found = analysed(write_run(tmp_path / "r", made({("mid.0", None): 0.5, ("up.0.1", None): 0.3})))
    assert {arm.name for arm in found.arms} == {"sae, mid.0", "sae, up.0.1", "none"}
    assert not any("teps" in line for line in legend(found))
    assert gain_by_steps(found) is success_by_steps(found) is blocks_by_steps(found) is curves_by_steps(found) is None


def test_some_steps_alone_are_said(tmp_path: Path) -> None:
    found = analysed(write_run(tmp_path / "r", made({("mid.0", (0,)): 0.5})))
    assert found.arms[0].name == "sae steps 0, mid.0"
    assert curves_by_category(found) is not None


def test_tables_of_block_and_steps(found: Analysis) -> None:
    gain, success = gain_by_steps(found), success_by_steps(found)
    assert gain is not None
    assert success is not None
    assert gain.head == success.head == ["method", "blocks", "0", "1-3", "all"]
    assert gain.rows == [
        ["sae", "mid.0", "0.100 (2)", "0.025 (2)", "0.125 (2)"],
        ["sae", "up.0.1", "-0.050 (2)", "–", "0.075 (2)"],
    ]
    assert success.rows == [
        ["sae", "mid.0", "1.000 (2)", "1.000 (2)", "1.000 (2)"],
        ["sae", "up.0.1", "0.000 (2)", "–", "1.000 (2)"],
    ]


@pytest.mark.parametrize("truth", [True, False])
def test_heat_map_of_block_and_steps(tmp_path: Path, truth: bool) -> None:
    found = analysed(write_run(tmp_path / "r", made(SLOPES, truth)))
    figure = blocks_by_steps(found)
    assert figure is not None
    panels = [axes for axes in figure.axes if axes.get_title()]
    titles = ["sae: CLIP gain over the base image", "sae: edit_success"]
    assert [axes.get_title() for axes in panels] == titles[: 1 + truth]
    gains = np.array([[0.1, 0.025, 0.125], [-0.05, np.nan, 0.075]])
    for axes, wanted in zip(panels, (gains, np.array([[1, 1, 1], [0, np.nan, 1]])), strict=False):
        np.testing.assert_allclose(np.ma.filled(axes.images[0].get_array(), np.nan), wanted, atol=1e-9)
        assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1-3", "all"]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["mid.0", "up.0.1"]
    assert [text.get_text() for text in panels[0].texts][:4] == [".100", "2", ".025", "2"]


def test_curves_by_steps_have_a_look_for_each_interval(found: Analysis, tmp_path: Path) -> None:
    figure = curves_by_steps(found)
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.has_data()] == ["sae, mid.0", "sae, up.0.1"]
    handles = figure.legends[0].legend_handles
    assert [handle.get_label() for handle in handles] == ["0", "1-3", "all", "base image"]  # type: ignore[union-attr]
    assert len({handle.get_color() for handle in handles}) == 4  # type: ignore[union-attr]
    assert [len(axes.lines) for axes in figure.axes if axes.has_data()] == [4, 3]
    names = [path.name for path in draw_run_curve(curves_of(found.group), tmp_path)]
    assert names == ["curve.png", "curve.svg", "curve-by-steps.png", "curve-by-steps.svg"]
    assert "sae steps 0" not in (tmp_path / "curve.svg").read_text()  # which is of all steps


def test_many_intervals_look_unlike() -> None:
    names = [f"{first}-{last}" for last in range(8) for first in range(last)]
    assert len(set(looks_of_intervals([*names, "all"]).values())) == len(names) + 1


def test_frame_and_sheets(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", made(SLOPES))
    frame = load_records(run)
    assert sorted(frame["on_steps"].unique()) == ["0", "1-3", "all"]
    (run / "images").mkdir()
    for pair in "pq":
        Image.new("RGB", (8, 8)).save(run / "images" / f"{pair}-base.png")
    names = {path.name for path in contact_sheets(curves_of(read_groups([run])[0][0]), run)}
    assert {"sae_steps_1-3-mid.0.png", "sae_all_steps-mid.0.png", "none-any.png"} <= names


def test_runs_are_compared_interval_by_interval(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", made({("mid.0", (0,)): 0.4, ("mid.0", None): 0.5}, strengths=(1,)))
    two = write_run(tmp_path / "two", made({("mid.0", (0,)): 0.8, ("mid.0", (1,)): 0.5}, strengths=(1,)))
    compared = compare(one, two)
    assert compared.settings == 2  # sae and none, in step 0
    assert compared.table["difference"].iloc[0] == pytest.approx(0.4 * 0.25 / 2)
    assert comparison_tables(compared)[1].rows[0][-1] == "sae, mid.0, steps 0, 1"


def test_contributed_runs_have_every_interval(tmp_path: Path) -> None:
    arm = {"method": "sae", "options": {"only_add": False}, "blocks": ["mid.0"], "on_steps": [[0], None]}
    run = {"model": "mini", "steps": 4, "strengths": [1.0], "arms": [arm], "pairs": 2, "parts": PARTS, "code": {}}
    run |= {"command": ["riebench"], "finished": "2026-01-01T00:00:00"}
    records = [r for r in made({("mid.0", (0,)): 0.4, ("mid.0", None): 0.5}, strengths=(1,)) if r.setting.options]
    assert check_folder(write_run(tmp_path / "whole", records, run)).problems == []
    (missing,) = check_folder(write_run(tmp_path / "part", [records[0], *records[2:]], run)).problems
    assert missing == "1 of 4 records are missing (first: pair p, sae in mid.0, steps all, strength 1)"
    (strange,) = check_folder(
        write_run(tmp_path / "more", records, run | {"arms": [arm | {"on_steps": [None]}]})
    ).problems
    assert strange == "1 settings are not in run.json (first: sae in mid.0, steps 0, strength 1)"

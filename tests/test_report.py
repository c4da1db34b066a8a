"""The report's statistics against numbers worked out by hand, and what it writes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from report_helpers import FOUR, PARTS, record, write_run
from rich.console import Console
from scipy import stats

import riebench
from riebench.cli import main
from riebench.records import Record, read_records
from riebench.report import artists
from riebench.report.analysis import Options, analyse
from riebench.report.arms import arms_of, half_of
from riebench.report.board import board_columns
from riebench.report.compare import compare, comparison_tables, write_comparison
from riebench.report.contributed import check_folder
from riebench.report.curve_figures import curves_by_category, draw_run_curve
from riebench.report.curves import curves_of
from riebench.report.figures import failures
from riebench.report.frame import COLUMNS, load_records
from riebench.report.groups import read_groups
from riebench.report.heat_maps import blocks_by_category
from riebench.report.matching import cross, gap
from riebench.report.scores import held_out_scores, matched
from riebench.report.sheet import contact_sheets
from riebench.report.style import FIGURE_NAMES, FIXED, PAPER, colour
from riebench.report.summary import failure_lines, summarize
from riebench.report.tables import (
    against_best,
    by_category,
    latex,
    leaderboard,
    legend,
    markdown,
    print_leaderboard,
    settings_table,
)
from riebench.report.texttable import (
    NARROW,
    TextTable,
    interval,
    latex_table,
    markdown_table,
    p_value,
    print_sections,
)
from riebench.report.written import TABLES, Written, write_report
from riebench.stats.correlation import spearman
from riebench.stats.resample import Bootstrap, holm, letters, pairs_to_tell_apart, quantiles, sign_flip, strata
from riebench.util.errors import UserError


def curves(methods: dict[str, float], pairs: int = 12, strengths: tuple[float, ...] = (0, 1, 2)) -> list[Record]:
    """Records of methods whose CLIP grows with LPIPS at a given slope, over pairs that differ in where they start."""
    found = []
    for i in range(pairs):
        base = 0.5 + 0.02 * i
        found.append(record(f"p{i:02d}", base, 0.0, method="none", options={}, category=1 + i % 3))
        for method, slope in methods.items():
            for strength in strengths:
                lpips = 0.25 * strength * (1 + 0.01 * (i % 4))
                clip = base + slope * lpips + 0.002 * ((i * 7) % 5 - 2) * (strength > 0)
                truth = {"edit_success": float(slope * lpips > 0.06), "kept": 1 - lpips / 2}
                more = {"method": method, "strength": strength, "category": 1 + i % 3, "truth": truth}
                found.append(record(f"p{i:02d}", clip, lpips, **more))
    return found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", curves({"sae": 0.4, "steering": 0.2}))


def analysed(*paths: Path, **options: Any) -> Any:
    groups, why = read_groups(paths)
    assert not why
    return analyse(groups[0], Options(resamples=1000, **options))


# --- statistics ---------------------------------------------------------------------------------------------------


def test_value_where_the_path_first_meets_the_budget() -> None:
    lpips = np.array(
        [[0.0, 0.2, 0.1, 0.4], [0.1, 0.1, 0.1, 0.1], [0.0, np.nan, 0.4, 0.2], [np.nan, 0.3, np.nan, np.nan]]
    )
    clip = np.array([[0.5, 0.7, 0.1, 0.9], [0.6, 0.7, 0.8, 0.9], [0.2, 9.9, 0.6, 0.0], [np.nan, 0.5, np.nan, np.nan]])
    read = cross(lpips, np.array([0.1, 0.15, 0.3, 0.5])).read(clip)
    # First pair: half way up the first segment, not on the way back; 0.3 lies on the last segment, 2/3 along.
    np.testing.assert_allclose(read[0], [0.6, 0.65, 0.1 + 0.8 * 2 / 3, np.nan])
    # Second: meets 0.1 at its weakest strength and nothing else; third: the failed strength is passed over.
    np.testing.assert_allclose(read[1], [0.6, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(read[2], [0.3, 0.35, 0.5, np.nan])
    assert np.isnan(read[3]).all()  # one point is no curve, even on the budget


def test_area_between_curves_over_the_common_range_only() -> None:
    a, b = np.array([[0.0, 0.4]]), np.array([[0.2, 0.6]])
    area, width = gap(a, np.array([[0.5, 0.9]]), b, np.array([[0.4, 0.8]]))
    # a is 0.5 + l, b is 0.2 + l: 0.3 apart over 0.2 .. 0.4.
    assert width[0] == pytest.approx(0.2)
    assert area[0] == pytest.approx(0.06)
    assert np.isnan(gap(a, a, b + 1, b)[0][0])


def test_bootstrap_has_the_spread_of_a_mean(rng: np.random.Generator) -> None:
    values = rng.normal(size=(40, 1))
    means = Bootstrap([1] * 40).means(values)
    error = values.std(ddof=1) / np.sqrt(40)
    assert means.mean[0] == pytest.approx(values.mean())
    assert (means.high - means.low)[0] == pytest.approx(2 * 1.96 * error, rel=0.05)
    again = Bootstrap([1] * 40).means(values)
    assert (means.low, means.high) == (again.low, again.high)


def test_rounding_is_no_spread() -> None:
    values = np.array([0.1 + 0.2, 0.3] * 10)[:, None]  # 5.6e-17 apart
    means = Bootstrap([1] * 20).means(np.concatenate([values, values - 0.3], 1))
    np.testing.assert_allclose(means.mean, [0.3, 0], atol=1e-9)
    assert np.isnan([means.low, means.high]).all()


@pytest.mark.parametrize("n", [2, 3, 5, 40])
def test_a_stratum_of_n_pairs_is_drawn_n_less_one_times(n: int) -> None:
    """The mean of n - 1 draws has the variance (sum of squares / n) / (n - 1): the estimate s^2 / n, without bias."""
    values = np.arange(n) ** 2.0
    weights = Bootstrap([1] * n, resamples=20_000).weights
    np.testing.assert_allclose(weights.sum(0), n, rtol=1e-6)
    drawn = np.rint(weights * (n - 1) / n)
    assert (drawn.sum(0) == n - 1).all()
    assert (values @ weights / n).var() == pytest.approx(values.var(ddof=1) / n, rel=0.05)


def test_strata_take_the_spread_between_categories_out(rng: np.random.Generator) -> None:
    first, second = rng.normal(0, 1, 5), rng.normal(50, 1, 20)
    values = np.concatenate([first, second])[:, None]
    found = Bootstrap([1] * 5 + [2] * 20).means(values)
    error = np.sqrt(5 * first.var(ddof=1) + 20 * second.var(ddof=1)) / 25
    assert (found.high - found.low)[0] == pytest.approx(2 * 1.96 * error, rel=0.08)
    together = Bootstrap([1] * 25).means(values)
    assert (together.high - together.low)[0] > 10 * (found.high - found.low)[0]


def test_small_categories_keep_their_spread(rng: np.random.Generator) -> None:
    """With as many draws as pairs, categories of two would lose half of their variance."""
    values = rng.normal(size=(100, 1))
    found = Bootstrap([i // 2 for i in range(100)]).means(values)
    error = np.sqrt(values.reshape(50, 2).var(1, ddof=1).sum() * 2) / 100
    assert (found.high - found.low)[0] == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_undefined_is_null_never_zero() -> None:
    columns = np.array([[0.5, 0.5, np.nan, 0.1], [np.nan, 0.5, np.nan, 0.3], [np.nan, 0.5, np.nan, 0.2]])
    means = Bootstrap([1, 1, 2]).means(columns)
    assert means.count.tolist() == [1, 3, 0, 3]
    np.testing.assert_allclose(means.mean, [0.5, 0.5, np.nan, 0.2])
    assert np.isnan(means.low[:3]).all()
    assert np.isnan(means.high[:3]).all()
    assert means.low[3] < 0.2 < means.high[3]
    assert [s.tolist() for s in strata([1, 1, 2])] == [[0, 1, 2]]
    assert [s.tolist() for s in strata([1, 2, 3])] == [[0, 1, 2]]


def test_quantiles_are_those_of_numpy(rng: np.random.Generator) -> None:
    drawn = rng.normal(size=(3, 501))
    drawn[1, :200] = np.nan
    low, high = quantiles(drawn)
    np.testing.assert_allclose([low, high], np.nanpercentile(drawn, [2.5, 97.5], axis=1))


def test_sign_flips_are_exact_where_they_can_be(rng: np.random.Generator) -> None:
    assert sign_flip(np.array([[1.0], [2], [3]]))[0] == pytest.approx(2 / 8)
    found = sign_flip(np.array([[0.0, 0.3], [0.0, np.nan]]))
    assert np.isnan(found).all()
    values = rng.normal(0.3, 1, size=(60, 1))
    assert sign_flip(values)[0] == pytest.approx(stats.ttest_1samp(values[:, 0], 0).pvalue, rel=0.15)


def test_holm_by_hand() -> None:
    found = holm(np.array([0.04, np.nan, 0.01, 0.03]))
    np.testing.assert_allclose(found, [0.06, np.nan, 0.03, 0.06])


def test_letters_share_exactly_where_nothing_tells_apart() -> None:
    assert letters(3, []) == ["a", "a", "a"]
    assert letters(4, [(0, 2), (0, 3), (1, 3)]) == ["a", "ab", "bc", "c"]


def test_intervals_over_few_pairs_hold_the_mean_as_often_as_the_texts_say(rng: np.random.Generator) -> None:
    for pairs, share in {2: 0.50, 3: 0.74, 5: 0.87, 9: 0.90, 20: 0.93}.items():
        means = Bootstrap([1] * pairs, 500).means(rng.normal(size=(pairs, 2000)))
        assert ((means.low < 0) & (means.high > 0)).mean() == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("comparisons", [1, 3, 10, 45, 1431])
def test_fewest_pairs_that_can_tell_apart(comparisons: int) -> None:
    fewest = pairs_to_tell_apart(comparisons)
    least = [comparisons * sign_flip(np.ones((pairs, 1)))[0] for pairs in (fewest - 1, fewest)]
    assert least[1] < 0.05 <= least[0]


def test_strength_is_chosen_on_the_other_half() -> None:
    ids = [f"q{i}" for i in range(40)]
    assert 8 < sum(map(half_of, ids)) < 32
    records = []
    for pair in ids:
        good = 2.0 if half_of(pair) else 1.0  # each half does best at a strength of its own
        records.append(record(pair, 0.5, 0.0, method="none", options={}))
        for strength in (1.0, 2.0, 3.0):
            clip = 0.9 if strength == 3 else 0.7 if strength == good else 0.6
            records.append(record(pair, clip, 0.9 if strength == 3 else 0.1, strength=strength))
    pairs, arms = arms_of(frame_of(records))
    out = held_out_scores(next(a for a in arms if a.label == "sae"), pairs, 0.2)
    # Strength 3 is over the budget; what is best on one half is the worse one on the other.
    assert out.chosen == [(None, 2.0), (None, 1.0)]
    np.testing.assert_allclose(out.values["clip_text_edit"], 0.6)
    np.testing.assert_allclose(out.values["gain"], 0.1)


def test_k_is_chosen_on_the_other_half() -> None:
    records = []
    for pair in (f"q{i}" for i in range(40)):
        good = 20 if half_of(pair) else 10
        for k in (10, 20):
            for strength in (0.0, 1.0):
                clip = 0.5 + strength * (0.3 if k == good else 0.1)
                records.append(record(pair, clip, 0.4 * strength, strength=strength, options={"k": k}))
    pairs, arms = arms_of(frame_of(records))
    assert len(arms) == 1
    score = matched(arms[0], pairs, [0.2])
    assert score.k == [[20], [10]]
    np.testing.assert_allclose(score.values["clip_text_edit"], 0.55)


def test_a_k_that_only_easy_pairs_reach_the_budget_with_is_not_chosen() -> None:
    records = []
    for number, pair in enumerate(f"q{i}" for i in range(40)):
        for k in (10, 20):
            reaches = k == 20 or number % 4 > 0  # three of four pairs
            clip, lpips = (0.9, 0.4) if k == 10 else (0.6, 0.4)
            records += [record(pair, 0.5, 0.0, strength=0.0, options={"k": k})]
            records += [record(pair, clip, lpips if reaches else 0.1, options={"k": k})]
    pairs, arms = arms_of(frame_of(records))
    assert matched(arms[0], pairs, [0.2]).k == [[20], [20]]


def test_a_default_k_is_the_k_that_it_stood_for() -> None:
    records = []
    for pair in ("a", "b"):
        for k, strength in ((None, 1.0), (12, 1.0), (12, 2.0), (24, 2.0)):
            made = record(pair, 0.5, 0.1 * strength, strength=strength, options={"k": k})
            records.append(made.model_copy(update={"notes": {"k": 12 if k is None else k}}))
    failed = {"status": "failed", "metrics": {}, "reason": "no object", "pair_id": "c"}
    records.append(record("c", 0.5, 0.1, options={"k": None}).model_copy(update=failed))
    _, [arm] = arms_of(frame_of(records))
    assert arm.ks == [12, 24]
    uneven = [
        one.model_copy(update={"notes": {"k": 1 + (one.pair_id == "b")}})
        for one in records
        if one.setting.options["k"] is None
    ]
    _, [arm] = arms_of(frame_of(uneven))
    assert arm.ks == [None]


def test_what_changes_nothing_inside_is_marked(tmp_path: Path) -> None:
    made = curves({"sae": 0.4, "paste": 0.2})
    notes = {"sae": {"acts": "inside"}, "paste": {"acts": "outside"}}
    found = analysed(
        write_run(tmp_path / "r", [r.model_copy(update={"notes": notes.get(r.setting.method, {})}) for r in made])
    )
    assert [arm.outside for arm in found.arms if arm.method in notes] == [False, True]
    assert [row[2] for row in leaderboard(found).rows[:2]] == ["sae", "paste †"]
    assert any(line.startswith("†") for line in legend(found))
    assert not any(line.startswith("†") for line in legend(analysed(write_run(tmp_path / "old", made))))


def test_ranked_by_margin_beside_the_gain(tmp_path: Path) -> None:
    """One method wins CLIP with both prompts, the other tells the prompts apart."""
    records = []
    for i in range(12):
        records.append(record(f"p{i}", 0.5, 0.0, method="none", options={}, truth={"clip_text_original": 0.5}))
        for method, edit, original in (("loud", 0.9, 0.95), ("sharp", 0.7 + 0.001 * i, 0.4)):
            for strength, share in ((0.0, 0.0), (1.0, 1.0)):
                clip, other = (0.5 + share * (value - 0.5) for value in (edit, original))
                more = {"method": method, "options": {}, "strength": strength, "truth": {"clip_text_original": other}}
                records.append(record(f"p{i}", clip, 0.4 * share, **more))
    run = write_run(tmp_path / "run", records)
    by_gain, found = analysed(run), analysed(run, rank_by="margin")
    assert by_gain.overall["method"].tolist()[:2] == ["loud", "sharp"]
    assert "rank_by_gain" not in by_gain.board
    assert found.overall[["method", "rank", "rank_by_gain"]].to_numpy().tolist()[:2] == [
        ["sharp", 1, 2],
        ["loud", 2, 1],
    ]
    assert found.overall.iloc[0]["margin@0.2"] == pytest.approx(0.5 * (0.3 + 0.001 * 5.5))
    [comparison] = found.comparisons.to_dict("records")
    assert comparison["difference"] == pytest.approx(0.5 * (0.3 + 0.0055) + 0.025)
    assert leaderboard(found).head[:3] == ["rank", "by gain", "group"]
    with pytest.raises(UserError, match="margin"):
        analysed(run, rank_by="margn")
    with pytest.raises(UserError, match="truth"):
        analysed(run, rank_by="edit_success")


def frame_of(records: list[Record]) -> pd.DataFrame:
    with TemporaryDirectory() as folder:
        return load_records(write_run(Path(folder) / "run", records))


# --- the board ----------------------------------------------------------------------------------------------------


def test_board_by_hand(run: Path) -> None:
    found = analysed(run)
    assert (found.budgets, found.rank_at) == ([0.1, 0.2, 0.3, 0.4], 0.2)
    assert "the usual ones" in found.why_there
    board = found.overall.set_index("method")
    assert board["rank"].dropna().to_dict() == {"sae": 1, "steering": 2}
    assert board.loc["sae", "gain"] == pytest.approx(0.08, abs=0.002)
    assert board.loc["steering", "gain"] == pytest.approx(0.04, abs=0.002)
    assert board.loc["sae", "score@0.2_pairs"] == 12
    assert board["group"].tolist()[:2] == ["a", "b"]
    only = found.comparisons.iloc[0]
    assert (only["a"], only["pairs"], only["told_apart"]) == ("sae, mid.0", 12, True)
    assert only["difference"] == pytest.approx(0.04, abs=1e-6)
    assert only["mean_gap"] == pytest.approx(0.2 * 0.25, rel=0.03)  # slopes 0.2 apart over 0 .. 0.5
    assert set(board_columns(found.budgets, found.metrics)) >= set(found.board.columns) - {"arm"}
    assert found.truth.set_index("metric")["correlation"]["lpips_base"] == pytest.approx(-1)


def test_pairs_outside_the_range_have_no_score(tmp_path: Path) -> None:
    records = curves({"sae": 0.4, "steering": 0.2}, strengths=(1, 2))  # LPIPS 0.25 to 0.5 only
    found = analysed(write_run(tmp_path / "r", records), budgets=(0.1, 0.3), rank_at=0.3)
    board = found.overall.set_index("method")
    assert board.loc["sae", "score@0.1_pairs"] == 0
    assert np.isnan(board.loc["sae", "score@0.1"])
    assert board.loc["sae", "score@0.3_pairs"] == 12
    with pytest.raises(UserError, match=r"--rank-at is 0\.2; expected one of the budgets 0\.1, 0\.3"):
        analysed(tmp_path / "r", budgets=(0.1, 0.3), rank_at=0.2)


def test_budgets_follow_the_data_where_the_usual_ones_lie_outside(tmp_path: Path) -> None:
    records = [
        r.model_copy(update={"metrics": r.metrics | {"lpips_base": r.metrics["lpips_base"] / 10}})
        for r in curves({"sae": 0.4, "steering": 0.2})
    ]
    found = analysed(write_run(tmp_path / "r", records))
    assert found.budgets == [0.012, 0.024, 0.036, 0.048]
    assert any("chosen from the data" in note for note in found.notes)


def test_methods_that_do_not_hang_on_blocks_are_one_row(tmp_path: Path) -> None:
    records = [record(p, 0.5, 0.1, method="prompt", options={}, blocks=b) for p in "ab" for b in (FOUR, ("mid.0",))]
    records += [record(p, 0.5 + 0.1 * len(b), 0.1, blocks=b) for p in "ab" for b in (FOUR, ("mid.0",))]
    found = analysed(write_run(tmp_path / "r", records))
    assert sorted(arm.name for arm in found.arms) == ["prompt", "sae, all 4", "sae, mid.0"]
    assert found.overall.set_index("method").loc["prompt", "attempted"] == 2


@pytest.mark.parametrize(
    ("acts", "by", "rows"),
    [("outside", 4e-6, ["any"]), ("inside", 4e-6, ["mid.0", "up.0.0"]), ("outside", 0.01, ["mid.0", "up.0.0"])],
)
def test_rounding_tells_no_blocks_apart_where_nothing_changes_inside(
    tmp_path: Path, acts: str, by: float, rows: list[str]
) -> None:
    def of(block: str, clip: float, searched: float) -> list[Record]:
        given: dict[str, Any] = {"method": "sdedit", "blocks": (block,), "notes": {"acts": acts}}
        asked = [record(p, clip, 0.1 + clip / 100, strength=1, **given) for p in "ab"]
        return [*asked, record("a", clip, 0.2, strength=searched, at_lpips=(0.2,), **given)]

    found = analysed(write_run(tmp_path / "r", [*of("mid.0", 0.5, 2.001), *of("up.0.0", 0.5 + by, 2.002)]))
    assert sorted(arm.blocks for arm in found.arms) == rows
    assert found.overall["attempted"].tolist() == [2] * len(rows)


def test_a_pair_that_nothing_scored_changes_no_rank(tmp_path: Path) -> None:
    records = curves({"sae": 0.4, "steering": 0.2})
    lost = [record("lost", None, None, method=m, strength=s) for m in ("sae", "steering") for s in (0.0, 1.0, 2.0)]
    found, whole = (
        analyse(read_groups([write_run(tmp_path / name, rows)])[0][0], Options(resamples=200))
        for name, rows in {"lost": records + lost, "whole": records}.items()
    )
    assert "Ranked by gain" in " ".join(legend(found))
    assert not any("base image" in note for note in found.notes)
    assert found.overall["gain"].tolist()[:2] == whole.overall["gain"].tolist()[:2]
    assert found.overall["attempted"].tolist()[:2] == [13, 13]


def test_without_the_base_image_the_tables_are_of_clip(tmp_path: Path) -> None:
    records = [
        record(
            f"p{i}", 0.5 + s / 10 - (block == "up.0.0") / 100, 0.3 * s, strength=s, blocks=(block,), category=1 + i % 2
        )
        for i in range(6)
        for s in (0.5, 1.0)
        for block in ("mid.0", "up.0.0")
    ]
    found = analyse(read_groups([write_run(tmp_path / "run", records)])[0][0], Options((0.2,), resamples=200))
    assert by_category(found).rows[0][2:] == ["0.567 (3)", "0.567 (3)"]  # type: ignore[union-attr]
    board = leaderboard(found)
    assert "held-out CLIP" in board.head
    assert not any("gain" in name for name in board.head)
    assert board.rows[0][board.head.index("held-out CLIP")] == "0.550 (6)"
    assert blocks_by_category(found) is not None


def test_the_better_on_the_pairs_of_both_comes_first_and_a_rank_against_it_is_said(tmp_path: Path) -> None:
    """``few`` reaches the budget on the easy half only, and is worse there than ``many``, which reaches it on all."""
    records = []
    for i in range(24):
        easy = i % 2 == 0
        for s in (0.0, 1.0):
            gains = {"few": 0.10 if easy else 0.01, "many": 0.12 if easy else 0.01}
            reached = {"few": 0.3 if easy else 0.05, "many": 0.3}
            for method, gain in gains.items():
                clip = 0.5 + s * (gain + 0.001 * ((i * 7) % 5))
                records.append(record(f"p{i:02d}", clip, s * reached[method], method=method, strength=s))
    found = analyse(read_groups([write_run(tmp_path / "run", records)])[0][0], Options((0.2,), resamples=500))
    assert found.overall["method"].tolist() == ["few", "many"]  # by means over pairs of their own
    row = found.comparisons.iloc[0]
    assert (row["a"], row["b"], row["pairs"], row["told_apart"]) == ("many, mid.0", "few, mid.0", 12, True)
    assert row["difference"] > 0
    assert row["area"] > 0
    assert against_best(found).rows[0][:2] == ["many, mid.0", "few, mid.0"]  # type: ignore[union-attr]
    assert any("other way round than they rank" in note and "many, mid.0 is better" in note for note in found.notes)


def test_the_interval_of_the_correlation_leans_to_the_truth(rng: np.random.Generator) -> None:
    """Over ever more pairs the correlation would be 1; noise weakens it, and that of a resample once more."""
    means = np.linspace(0, 1, 60)
    a, b = (means + rng.normal(0, 0.5, (40, 60)) for _ in range(2))
    correlation, low, high = spearman(a, b, Bootstrap([1] * 40).weights[:, :2000].T)
    assert correlation == pytest.approx(stats.spearmanr(a.mean(0), b.mean(0))[0])
    assert low < correlation
    assert correlation + 0.02 < high <= 1


def test_the_interval_of_the_correlation_holds_it(rng: np.random.Generator) -> None:
    """Near 1, no resample is as strong as the sample, and the basic bootstrap alone would leave its estimate out."""
    means = np.linspace(0, 1, 40)
    a, b = (means + rng.normal(0, 0.4, (90, 40)) for _ in range(2))
    weights = Bootstrap([1] * 90).weights[:, :2000].T
    correlation, low, high = spearman(a, b, weights)
    assert 0.9 < low < correlation < high <= 1


def test_a_perfect_resample_does_not_widen_the_interval_of_the_correlation(rng: np.random.Generator) -> None:
    """With few settings many resamples rank them alike; the sample, which does not quite, is nearly as sure."""
    a, b = (rng.normal(0, 0.5, (60, 8)) for _ in range(2))
    a += [0, 1, 2, 3, 4, 5, 6, 6.1] - a.mean(0)
    b += [0, 1, 2, 3, 4, 5, 6.01, 6] - b.mean(0)
    correlation, low, high = spearman(a, b, Bootstrap([1] * 60).weights[:, :2000].T)
    assert (correlation, high) == (pytest.approx(41 / 42), 1)
    assert low > 0.9


def test_a_setting_that_is_there_again_counts_once_in_the_correlation(tmp_path: Path) -> None:
    def measured(copies: int) -> pd.DataFrame:
        kept = (1.0, 0.6, 0.9, 0.3)
        records = [
            record(p, 0.5 + s / 10, s / 8, strength=float(s), method=m, truth={"edit_success": s / 4, "kept": kept[s]})
            for p in "ab"
            for m in ("sae", *(f"copy-{i}" for i in range(copies)))
            for s in range(4 if m == "sae" else 1)
        ]
        return analysed(write_run(tmp_path / f"r{copies}", records)).truth

    alone, repeated = measured(0), measured(5)
    assert alone["settings"].tolist() == repeated["settings"].tolist() == [4, 4]
    assert repeated["correlation"].tolist() == alone["correlation"].tolist() == pytest.approx([1, -0.8])


def test_an_arm_of_few_pairs_has_no_rank(tmp_path: Path) -> None:
    everyone = curves({"sae": 0.2})
    few = [r for r in curves({"steering": 0.9}) if r.pair_id < "p05" and r.setting.method == "steering"]
    found = analysed(write_run(tmp_path / "r", everyone + few))
    ranks = found.overall.set_index("method")["rank"]
    assert ranks["sae"] == 1
    assert ranks[["steering"]].isna().all()
    assert any("less than half" in note and "steering" in note for note in found.notes)


def test_a_number_of_fewer_pairs_than_the_score_says_so(tmp_path: Path) -> None:
    records = curves({"sae": 0.4})
    for r in records:
        if r.pair_id > "p01":
            r.metrics["edit_success"] = None
    board = leaderboard(analysed(write_run(tmp_path / "r", records)))
    row = board.rows[0]
    assert row[next(i for i, name in enumerate(board.head) if name.startswith("edit_success"))].endswith(" (2)")
    assert not row[next(i for i, name in enumerate(board.head) if name.startswith("kept"))].endswith(")")


def test_few_pairs_are_said(tmp_path: Path) -> None:
    records = [r for r in curves({"sae": 0.4, "steering": 0.2}) if r.pair_id < "p05"]
    run = write_run(tmp_path / "few", records)
    found = analysed(run)
    assert any(note.startswith("5 pairs are few, so the 95 % intervals are too narrow") for note in found.notes)
    assert "with fewer than 6 pairs that both scored, no test can tell two methods apart" in found.notes
    assert "the intervals are too narrow" in settings_table(curves_of(read_groups([run])[0][0])).title
    assert "the intervals are too narrow" in comparison_tables(compare(run, run))[0].title
    many = curves({"sae": 0.4, "steering": 0.2}, pairs=20)
    enough = write_run(tmp_path / "enough", [r.model_copy(update={"category": 1}) for r in many])
    assert not any("too narrow" in note or "no test" in note for note in analysed(enough).notes)
    assert "too narrow" not in settings_table(curves_of(read_groups([enough])[0][0])).title


def test_methods_without_a_pair_in_common_are_said(tmp_path: Path) -> None:
    half = [r for r in curves({"sae": 0.4, "steering": 0.2}) if (r.setting.method == "sae") == (r.pair_id < "p06")]
    notes = analysed(write_run(tmp_path / "r", half), budgets=(0.2,)).notes
    assert "1 comparisons are of methods without a pair in common, first sae, mid.0 and steering, mid.0" in notes


def test_many_comparisons_get_as_many_flips_as_their_correction_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("riebench.report.board.FLIPS", 100)  # as 100,000 are for the comparisons of a hundred arms
    methods = {"sae": 0.4, "steering": 0.3, "neurons": 0.2, "caa": 0.1}
    found = analysed(write_run(tmp_path / "four", curves(methods)))
    assert found.comparisons["told_apart"].tolist() == [True] * 6


def test_pairs_that_only_a_search_scored_are_counted(tmp_path: Path) -> None:
    records = [record(f"p{i}", 0.5 + 0.1 * s, 0.1 * s, strength=s, at_lpips=(0.1,)) for i in range(4) for s in (1, 2)]
    found = analysed(write_run(tmp_path / "r", records))
    assert found.overall[["attempted", "scored", "rank"]].to_numpy().tolist() == [[4, 4, 1]]
    assert not any("failed" in note for note in found.notes)


def test_strengths_below_0_are_said_to_be_on_no_curve(tmp_path: Path) -> None:
    records = [record(f"p{i}", 0.5, -0.1 * s, strength=s) for i in range(4) for s in (-2, -1)]
    notes = analysed(write_run(tmp_path / "r", records)).notes
    assert "no curve (strengths below 0 are on none), so no score at matched LPIPS: sae, mid.0" in notes


def test_numbers_of_other_scales_are_printed_whole(tmp_path: Path) -> None:
    large, small = interval(15, 10.5, 20.25), interval(0.3, 0.25, 10.05)
    table = TextTable("t", ["a", "b", "c"], [["x", large, small]])
    assert "[10.500, 20.250]" in latex_table(table, "")
    assert "[.250, 10.050]" in latex_table(table, "")
    assert [p_value(p) for p in (0.0004, 0.0494, 0.0496, 0.05)] == ["< 0.001", "0.049", "< 0.050", "0.050"]
    runs = [[record(p, 0.5, 0.1, truth={"own": n * 1e-5 * more}) for n, p in enumerate("abc")] for more in (1, 2)]
    one, two = (write_run(tmp_path / str(i), records) for i, records in enumerate(runs))
    tables = comparison_tables(compare(one, two, "own"))
    assert tables[0].rows[0][-2] == "0.0000100 [0.0000000, 0.0000200]"
    assert tables[1].rows[0][2] == "0.0000200"


def test_failures_count_as_attempted(tmp_path: Path) -> None:
    records = [record("a", 0.5, 0.1), record("b", None, None), record("c", None, None, reason="too long")]
    found = analysed(write_run(tmp_path / "r", records))
    row = found.overall.iloc[0]
    assert (row["attempted"], row["scored"], row["failed"]) == (3, 1, 2)
    assert sorted(found.failures["reason"]) == ["the masker finds no 'duck'", "too long"]


# --- the table, curve and sheets of a run --------------------------------------------------------------------------


def test_the_table_of_a_run_is_the_reports(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = curves_of(read_groups([run])[0][0])
    table = settings_table(found, strength=1)
    assert table.head[:6] == ["category", "method", "blocks", "strength", "attempted", "scored"]
    assert table.head[6:] == ["clip_text_edit", "gain", "lpips_base", "edit_success", "kept"]
    assert list(dict.fromkeys(row[0] for row in table.rows)) == ["change object", "add object", "delete object", "all"]
    means = analyse(read_groups([run])[0][0]).curves
    row = means[(means["category"] == "all") & (means["method"] == "sae") & (means["strength"] == 1)].iloc[0]
    text = f"{row['clip_text_edit_mean']:.3f} [{row['clip_text_edit_low']:.3f}, {row['clip_text_edit_high']:.3f}]"
    assert next(r for r in table.rows if r[:2] == ["all", "sae"])[3:7] == ["1", "12", "12", text]
    main_words = ["table", str(run), "--overall", "--strength", "1", "--markdown"]
    with pytest.raises(SystemExit):
        main(main_words)
    assert capsys.readouterr().out == markdown_table(settings_table(found, strength=1, overall=True))


def test_the_table_of_a_run_counts_failures_and_shows_every_k(tmp_path: Path) -> None:
    clips = {"a": 0.2, "b": 0.4, "c": 0.5}
    records = [record(p, clip, 0.1, options={"k": k}) for k in (10, 20) for p, clip in clips.items()]
    records += [record("d", None, None, options={"k": 20})]
    found = curves_of(read_groups([write_run(tmp_path / "r", records)])[0][0])
    rows = settings_table(found).rows
    assert [row[:6] for row in rows] == [
        ["change object", "sae k=10", "mid.0", "1", "3", "3"],
        ["change object", "sae k=20", "mid.0", "1", "4", "3"],
    ]
    assert rows[0][6].startswith("0.367 [0.2")
    assert settings_table(found, overall=True).rows == rows  # of one category, which is all of them
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_sections(settings_table(found), console)
    assert "mid.0, means over pairs" in console.export_text()


def test_a_metric_of_fewer_pairs_has_its_own_count(tmp_path: Path) -> None:
    records = [record(p, 0.3, 0.1) for p in "abcd"]
    for number, made in enumerate(records):
        made.metrics["ssim_outside"] = 0.9 if number < 2 else None
        made.metrics |= {"edit_success": 1.0 if number else None, "kept": 1.0}
    group = read_groups([write_run(tmp_path / "r", records)])[0][0]
    (row,) = settings_table(curves_of(group)).rows
    assert row[5] == "4"
    assert [cell.endswith(" (3)") for cell in row[6:]] == [False, False, True, False]
    curves = analyse(group).curves
    assert curves["ssim_outside_pairs"].tolist() == [2] * len(curves)
    assert curves["pairs"].tolist() == [4] * len(curves)


def test_the_terminal_names_many_blocks_in_short_and_markdown_in_full(tmp_path: Path) -> None:
    truth = {"edit_success": 1.0, "kept": 1.0}
    records = [record(p, len(b) / 10, 0.1, blocks=b, truth=truth) for p in "ab" for b in (FOUR, ("mid.0",))]
    table = settings_table(curves_of(read_groups([write_run(tmp_path / "r", records)])[0][0]))
    assert {row[2] for row in table.rows} == {"+".join(FOUR), "mid.0"}
    shown = {}
    for width in (NARROW - 1, NARROW):
        console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        print_sections(table, console)
        shown[width] = console.export_text()
        assert "all 4" in shown[width]
        assert FOUR[0] not in shown[width]
        assert shown[width].count("change object") == 1
    assert ["kept" in text for text in shown.values()] == [False, True]


def test_a_run_without_a_score_has_a_table_and_no_curve(tmp_path: Path) -> None:
    found = curves_of(read_groups([write_run(tmp_path / "r", [record(p, None, None) for p in "ab"])])[0][0])
    assert [row[4:] for row in settings_table(found).rows] == [["2", "0", "–", "–"]]
    assert draw_run_curve(found, tmp_path) == contact_sheets(found, tmp_path) == []


def test_curve_of_a_run(run: Path) -> None:
    found = curves_of(read_groups([run])[0][0])
    assert [path.name for path in draw_run_curve(found, run)] == ["curve.png", "curve.svg"]
    text = (run / "curve.svg").read_text()
    for said in ("change object (4 pairs)", "all categories, mid.0", "(clip)", "95 % bootstrap intervals"):
        assert said in text


def test_curve_of_a_run_with_several_block_sets(tmp_path: Path) -> None:
    """A category that the main blocks have no score in has no panel; the other blocks have theirs over all."""
    records = [record(p, 0.5, 0.1, method=m, category=1) for p in "ab" for m in ("sae", "steering")]
    records += [record("c", None, None, category=6), record("c", 0.6, 0.2, category=6, blocks=("up.0.0",))]
    found = curves_of(read_groups([write_run(tmp_path / "r", records)])[0][0])
    draw_run_curve(found, tmp_path)
    text = (tmp_path / "curve.svg").read_text()
    assert "change colour" not in text
    for said in ("change object (2 pairs)", "all categories, mid.0", "all categories, up.0.0"):
        assert said in text


def test_a_full_disk_while_the_curve_is_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*words: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(UserError, match="No space left"):
        summarize(run, Console(quiet=True))


def test_a_damaged_picture_is_a_gap_in_a_sheet(tmp_path: Path) -> None:
    records = [record("a", 0.5, 0.1)]
    run = write_run(tmp_path / "r", records)
    (run / "images").mkdir()
    Image.new("RGB", (8, 8), "red").save(run / "images" / "a-base.png")
    (run / "images" / f"a-{records[0].key}.png").write_bytes(b"\x89PNG torn")
    assert len(contact_sheets(curves_of(read_groups([run])[0][0]), run)) == 2


def test_each_row_of_a_sheet_has_its_own_strengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [
        record(pair, 0.5, lpips, strength=s, at_lpips=tried)
        for pair, searched in {"a": 1.344, "b": 0.5324}.items()
        for s, lpips, tried in ((1.0, 0.02, None), (1.7, 0.07, (0.05,)), (searched, 0.051, (0.05,)))
    ]
    run = write_run(tmp_path / "r", records)
    (run / "images").mkdir()
    for pair in "ab":
        Image.new("RGB", (8, 8), "red").save(run / "images" / f"{pair}-base.png")
    labels: list[str] = []
    pen = SimpleNamespace(text=lambda *words: labels.append(words[1]))
    monkeypatch.setattr("riebench.report.sheet.ImageDraw.Draw", lambda sheet: pen)
    contact_sheets(curves_of(read_groups([run])[0][0]), run)
    assert {"LPIPS 0.05 at 1.344", "LPIPS 0.05 at 0.5324", "strength 1", "tried 1.7"} <= set(labels)


def test_sheets_of_a_run(tmp_path: Path) -> None:
    records = [record(p, 0.5, 0.1, strength=s, category=c) for p, c in (("a", 1), ("b", 6), ("c", 6)) for s in (2, 1)]
    run = write_run(tmp_path / "r", records)
    (run / "images").mkdir()
    for name in ("a-base", "b-base", f"b-{records[2].key}"):
        Image.new("RGB", (8, 8), "red").save(run / "images" / f"{name}.png")
    paths = contact_sheets(curves_of(read_groups([run])[0][0]), run)
    assert [path.name for path in paths] == ["sae-mid.0.png", "sae-mid.0-1.png", "sae-mid.0-6.png"]
    with Image.open(paths[0]) as both, Image.open(paths[2]) as one:
        assert both.height > one.height  # a row for a and b each; c has no image
        assert one.getpixel((6 * 134 - 60, 100)) == (255, 0, 0)  # strength 2 is the last of six pictures


def test_the_base_image_is_known_from_any_record(tmp_path: Path) -> None:
    records = [
        record(f"p{i}", 0.5 + s / 10, 0.3 * s, strength=s, truth={"clip_text_edit_base": 0.45})
        for i in range(6)
        for s in (0.5, 1.0)
    ]
    found = analysed(write_run(tmp_path / "new", records), budgets=(0.2,))
    assert found.pairs.known
    np.testing.assert_allclose(found.pairs.base, 0.45)
    assert found.overall["gain"].tolist() == pytest.approx([0.5 + 0.2 / 3 - 0.45])
    assert not any("base image" in note for note in found.notes)
    # A pair whose records are all without it is as before: known only from an image equal to the base image.
    old = [record("old", 0.6, 0.3), record("old", 0.3, 0.0, strength=0)]
    pairs, _ = arms_of(frame_of(records + old))
    assert pairs.base[pairs.ids.index("old")] == 0.3
    assert not arms_of(frame_of(records + old[:1]))[0].known


def test_a_new_metric_appears_by_itself(tmp_path: Path) -> None:
    records = curves({"sae": 0.4, "steering": 0.2})
    for r in records:
        r.metrics["sharpness"] = 2 * r.metrics["lpips_base"]  # type: ignore[operator]
    run = write_run(tmp_path / "r", records)
    found = analysed(run)
    assert found.overall.set_index("method").loc["sae", "sharpness"] == pytest.approx(0.4)
    write_report([run], tmp_path / "out", figures=False)
    assert {"sharpness", "sharpness_low", "held_out_sharpness"} <= set(pd.read_csv(tmp_path / "out/leaderboard.csv"))
    assert "sharpness_mean" in pd.read_csv(tmp_path / "out/curves.csv")
    assert '"metrics":["clip_text_edit","lpips_base","gain","edit_success","kept","sharpness"]' in (
        tmp_path / "out/index.html"
    ).read_text(encoding="utf-8")
    assert "sharpness" in set(compare(run, run, "sharpness").table["metric"])


# --- putting runs together ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parts": PARTS | {"lpips": "lpips-2"}}, "lpips: lpips-1, lpips-2"),
        ({"parts": PARTS | {"model": "sdxl-1"}}, "model: mini-1, sdxl-1"),
        ({"conditions": {"dtype": "float16"}}, "dtype: none, float16"),
        ({"seed": 7}, "another seed"),
        ({"prompt": "a [goose]"}, "another original prompt"),
    ],
)
def test_what_may_not_be_mixed_is_in_tables_of_its_own(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    one = write_run(tmp_path / "one", [record("a", 0.5, 0.1)])
    two = write_run(tmp_path / "two", [record("a", 0.6, 0.1, **change)])
    groups, why = read_groups([one, two])
    assert len(groups) == 2
    assert any(said in reason for reason in why)
    written = write_report([one, two], tmp_path / "out", figures=False, page=False)
    assert {folder.name for _, folder in written.groups} == {"group-1", "group-2"}
    assert said in (tmp_path / "out" / "leaderboard.md").read_text()


def measured(records: list[Record], by: str, value: float) -> list[Record]:
    return [r.model_copy(update={"metrics": r.metrics | {"mine": value}, "measured_by": {"mine": by}}) for r in records]


def test_what_two_scripts_measured_is_not_compared(tmp_path: Path) -> None:
    records = curves({"sae": 0.4})
    one, two = (write_run(tmp_path / by, measured(records, by, len(by))) for by in ("script-1", "script-22"))
    groups, why = read_groups([one, two])
    assert (len(groups), "mine" in why[0]) == (2, True)
    with pytest.raises(UserError, match="mine"):
        compare(one, two, "mine")
    assert "mine" not in set(compare(one, two, "clip_text_edit").table["metric"])
    mixed = write_run(tmp_path / "mixed", [*measured(records[:9], "a", 1), *measured(records[9:], "b", 2)])
    found = analysed(mixed)
    assert "mine" not in found.overall
    assert any("mine" in note for note in found.notes)


def test_runs_over_other_pair_files_are_not_mixed(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", [record("a", 0.5, 0.1)], {"pair_file": "x.json"})
    two = write_run(tmp_path / "two", [record("b", 0.6, 0.1)], {"pair_file": "y.json"})
    three = write_run(tmp_path / "three", [record("c", 0.6, 0.1)], {"pair_file": "x.json"})
    assert len(read_groups([one, two])[0]) == 2
    assert len(read_groups([one, three])[0]) == 1


def test_runs_over_files_that_share_pairs_are_not_mixed(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / name, curves({"sae": 0.4}, pairs=pairs), {"pair_hash": name})
        for name, pairs in {"few": 4, "many": 8}.items()
    ]
    groups, why = read_groups(runs)
    assert len(groups) == 2
    assert why == ["few and many are over different pair files"]
    assert (
        len(read_groups([runs[0], write_run(tmp_path / "same", curves({"neurons": 0.4}), {"pair_hash": "few"})])[0])
        == 1
    )


def test_another_version_is_said(tmp_path: Path) -> None:
    made = [r.model_copy(update={"code": {"riebench": "0.0.7"}}) for r in curves({"sae": 0.4})]
    notes = analysed(write_run(tmp_path / "r", made)).notes
    assert f"the records were made by riebench 0.0.7; this is {riebench.version.__version__}" in notes


def test_a_record_of_two_runs_counts_once(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", [record("a", 0.5, 0.1), record("b", 0.5, 0.1)])
    two = write_run(tmp_path / "two", [record("b", 0.5, 0.1), record("c", 0.5, 0.1)])
    groups, _ = read_groups([one, two])
    assert sorted(groups[0].frame["pair_id"]) == ["a", "b", "c"]
    assert groups[0].notes == ["1 records are in several runs, and count once"]
    damaged = write_run(tmp_path / "three", [record("b", 0.9, 0.1)])
    with pytest.raises(UserError, match="has different numbers in one, three"):
        read_groups([one, damaged])


def test_other_code_is_told_apart_and_a_repeated_record_replaced(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", [record("a", None, None), record("a", 0.4, 0.1)])
    two = write_run(tmp_path / "two", [record("a", 0.6, 0.1, code="new")])
    groups, _ = read_groups([one, two])
    assert sorted(groups[0].frame["method"]) == ["sae (one)", "sae (two)"]
    assert groups[0].frame["clip_text_edit"].tolist() == [0.4, 0.6]
    assert analyse(groups[0]).arms[0].family == "sae"


CODE = {"numerics": "3", "method": "1"}


@pytest.mark.parametrize("fact", ["method", "imports", "files"])
def test_methods_of_other_code_are_rows_of_their_own_over_other_pairs_too(tmp_path: Path, fact: str) -> None:
    def run(name: str, made_by: dict[str, str], pairs: str) -> Path:
        return write_run(tmp_path / name, [record(p, 0.4, 0.1, made_by=made_by, code=made_by) for p in pairs])

    old = run("old", {}, "a")  # an earlier version, which does not say
    one, same, two = run("one", CODE, "ab"), run("same", CODE, "c"), run("two", CODE | {fact: "2"}, "d")
    [group], _ = read_groups([old, one, same])
    assert set(group.frame["method"]) == {"sae (old)", "sae (one)", "sae (same)"}  # as old and one share a pair
    [group], _ = read_groups([one, same])
    assert (set(group.frame["method"]), group.notes) == ({"sae"}, [])
    [group], _ = read_groups([one, same, two])
    assert sorted(arm.method for arm in arms_of(group.frame)[1]) == ["sae (one)", "sae (same)", "sae (two)"]
    assert "different code" in group.notes[0]
    merged = [*read_records(one), *read_records(two), record("e", 0.4, 0.1, method="none", made_by=CODE)]
    [group], _ = read_groups([write_run(tmp_path / "merged", merged)])
    assert sorted(name.partition(", ")[0] for name in group.frame["method"].unique()) == ["none", *["sae (merged"] * 2]
    assert group.frame["method"].str.contains(r"^sae \(merged, code [0-9a-f]{8}\)$").sum() == 3


@pytest.mark.parametrize("fact", ["numerics", "masks", "model"])
def test_runs_made_with_other_code_of_all_are_not_mixed(
    tmp_path: Path, fact: str, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [[record(p, 0.4, 0.1, made_by=made_by) for p in "ab"] for made_by in (CODE, CODE | {fact: "9"}, {})]
    one, two, old = (write_run(tmp_path / name, records) for name, records in zip(("1", "2", "3"), runs, strict=True))
    groups, why = read_groups([one, two])
    assert (len(groups), "were made with another" in why[0]) == (2, True)
    assert len(read_groups([one, old])[0]) == 1
    merged = [*runs[0], *(record("c", 0.4, 0.1, made_by=CODE | {fact: "9"}) for _ in "c")]
    assert len(read_groups([write_run(tmp_path / "merged", merged)])[0]) == 2
    assert len(compare(one, two).table)
    assert "made with another" in caplog.text


# --- files --------------------------------------------------------------------------------------------------------


def test_frame_in_one_call(run: Path, tmp_path: Path) -> None:
    frame = riebench.load_records(run)
    assert len(frame) == 84
    assert list(frame.columns) == [*COLUMNS, "clip_text_edit", "edit_success", "kept", "lpips_base"]
    assert frame["part_sae"].isna().all()
    write_report([run], tmp_path / "out", figures=False, page=False)
    again = load_records(tmp_path / "out" / "records.parquet")
    pd.testing.assert_frame_equal(again, frame, check_dtype=False)
    subprocess.run(["gzip", run / "records.jsonl"], check=True)
    pd.testing.assert_frame_equal(load_records(run), frame)


def test_a_file_among_the_runs_is_left_out(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    beside = run.parent / "README.md"
    beside.write_text("# Results\n")
    groups, _ = read_groups([beside, run])
    assert len(groups[0].frame) == 84
    assert f"skipped: {beside}" in caplog.text
    with pytest.raises(UserError, match=r"README.md is no file of records; give the folder"):
        read_groups([beside])


def test_keys_in_any_order(run: Path) -> None:
    as_written = load_records(run)
    file = run / "records.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for spaced in (",", ", "):
        file.write_text("".join(json.dumps(row, separators=(spaced, ":")) + "\n" for row in rows))
        pd.testing.assert_frame_equal(load_records(run), as_written)
    file.write_text("".join(json.dumps(dict(reversed(row.items()))) + "\n" for row in rows))
    pd.testing.assert_frame_equal(load_records(run), as_written)


def test_texts_and_options_that_look_like_keys(tmp_path: Path) -> None:
    said = 'a [cat], "setting": {"method": "sae"}, "metrics": {}, "pair_id": \\'
    options = {"metrics": 1, "setting": '"metrics": {}', "pair_id": None}
    one, two = record("p", 0.5, 0.1, options=options), record('"metrics":', 0.6, 0.2, method="none")
    records = [r.model_copy(update={"original_prompt": said}) for r in (one, two)]
    frame = load_records(write_run(tmp_path / "run", records))
    assert frame["original_prompt"].tolist() == [said, said]
    assert frame["pair_id"].tolist() == ["p", '"metrics":']
    assert json.loads(frame["options"][0]) == options
    assert frame["clip_text_edit"].tolist() == [0.5, 0.6]


def test_everything_is_written(run: Path, tmp_path: Path) -> None:
    write_report([run], tmp_path / "out")
    assert all((tmp_path / "out" / name).stat().st_size for name in (*TABLES, "records.parquet", "index.html"))
    names = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert names == {f"{n}.{e}" for n in ("curves-by-category", "dose-response") for e in ("png", "svg", "pdf")}
    board = pd.read_csv(tmp_path / "out" / "leaderboard.csv")
    assert board["category"].unique().tolist() == ["all", "change object", "add object", "delete object"]
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "| 1 | a | sae | mid.0 | 12/12 |" in text
    svg = (tmp_path / "out" / "figures" / "curves-by-category.svg").read_text()
    assert "← better" in svg
    assert colour("sae").lower() in svg.lower()


def test_numbers_come_before_pictures(run: Path, tmp_path: Path) -> None:
    out, steps = tmp_path / "out", []

    def tables_done(written: Written) -> None:
        assert [folder for _, folder in written.groups] == [out]
        assert {path.name for path in out.iterdir()} == {*TABLES, "records.parquet"}
        steps.append("tables")

    write_report([run], out, tables_done=tables_done, step=steps.append)
    assert steps == ["tables", *FIGURE_NAMES, "index.html"]


def test_same_records_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where further processes draw the figures, as those of a large report."""
    run = write_run(tmp_path / "run", [r for r in curves({"sae": 0.4}, pairs=6) if r.category == 1])
    steps: dict[str, list[str]] = {"x": [], "y": []}
    for name, many in (("x", artists.MANY), ("y", 1)):
        monkeypatch.setattr(artists, "MANY", many)
        write_report([run], tmp_path / name, page=False, step=steps[name].append)
    assert steps["x"] == sorted(steps["y"], key=FIGURE_NAMES.index) == list(FIGURE_NAMES)
    for path in (tmp_path / "x").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "y" / path.relative_to(tmp_path / "x")).read_bytes(), path.name


def test_strange_names_stay_text(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>|_%&\\x{}$#~^ [red]"
    records = [record(p, 0.5 + s / 10, s / 4, method=name, strength=s) for p in "ab" for s in (0.0, 1, 2)]
    found = analysed(write_run(tmp_path / "r", records))
    assert "\\|" in markdown(found)
    tex = latex(found)
    assert r"\textless{}script\textgreater{}" in tex
    assert r"\_\%\&" in tex
    assert r"\textbackslash{}x\{\}\$\#\textasciitilde{}\textasciicircum{}" in tex
    assert all(line.count(" & ") == 7 for line in tex.splitlines() if line.endswith(r"\\"))
    console = Console(width=250, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_leaderboard(found, console)
    assert "[red]" in console.export_text()
    write_report([tmp_path / "r"], tmp_path / "out", figures=False)
    for page in ("leaderboard.html", "index.html"):
        assert "<script>alert" not in (tmp_path / "out" / page).read_text()


def test_dollars_in_figures_are_dollars(tmp_path: Path) -> None:
    lost = [record("c", None, None, method="x^$_$", reason=r"costs $\frac$", strength=s) for s in (0.0, 1)]
    scored = [record(p, 0.5 + s / 10, s / 4, method="x^$_$", strength=s) for p in "ab" for s in (0.0, 1)]
    write_report([write_run(tmp_path / "r", scored + lost)], tmp_path / "out", page=False)
    assert "x^$_$" in (tmp_path / "out/figures/curves-by-category.svg").read_text()
    assert r"costs $\frac$" in (tmp_path / "out/figures/failures.svg").read_text()


def test_many_long_names_fit_into_a_figure_and_look_unlike(tmp_path: Path) -> None:
    names = [f"a-method-with-a-long-name-{i}" for i in range(16)]
    records = [record(p, 0.5 + s / 10, s / 4, method=n, strength=s) for n in names for p in "ab" for s in (0.0, 1)]
    records += [record("c", None, None, method=names[0], reason="x" * 99)]
    found = analysed(write_run(tmp_path / "r", records))
    with rc_context(PAPER):
        figure = curves_by_category(found)
        assert figure is not None
        FigureCanvasAgg(figure).draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    looks = {(h.get_color(), h.get_marker(), str(h.get_linestyle())) for h in figure.legends[0].legend_handles}  # type: ignore[union-attr]
    assert len(looks) == len(names) + 1  # and the base image
    reason = failures(found).axes[0].get_yticklabels()[0].get_text()  # type: ignore[union-attr]
    assert reason == "x" * 59 + "…"


def test_a_legend_of_short_names_and_its_ticks_fit(tmp_path: Path) -> None:
    names = [
        "caa",
        "neurons",
        "noise",
        "none",
        "paste",
        "prompt",
        "random",
        "sae",
        "sae-adaptive",
        "sae-random",
        "steering",
    ]
    records = [
        record(f"a{c}", 0.5, 0.105 * s, method=n, strength=s, category=c, at_lpips=(0.105,) if s == 1 else None)
        for n in names
        for c in (1, 2, 3)
        for s in (0.0, 0.5, 1.0)
    ]
    with rc_context(PAPER):
        figure = curves_by_category(analysed(write_run(tmp_path / "r", records)))
        assert figure is not None
        figure.set_dpi(PAPER["savefig.dpi"])  # letters are wider than at few dots
        FigureCanvasAgg(figure).draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    labels = [label.get_window_extent() for label in figure.axes[0].get_xticklabels() if label.get_text()]
    assert all(left.x1 < right.x0 for left, right in pairwise(labels))


def test_latex_compiles(run: Path, tmp_path: Path) -> None:
    if not shutil.which("pdflatex"):
        pytest.skip("there is no pdflatex")
    head, end = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n", "\n\\end{document}\n"
    (tmp_path / "t.tex").write_text(head + latex(analysed(run)) + end)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_colours_hang_on_the_name_alone() -> None:
    assert len(set(FIXED.values())) == len(FIXED)
    assert colour("stranger") == colour("stranger")
    assert colour("stranger") not in FIXED.values()


# --- comparing two runs, checking one -----------------------------------------------------------------------------


def test_compare_by_hand(tmp_path: Path) -> None:
    one = [record(p, 0.5, 0.1, strength=s, category=c) for p, c in zip("abc", (1, 1, 2), strict=True) for s in (1, 2)]
    more = {"a": 0.1, "b": 0.2, "c": -0.4}
    two = [
        record(
            r.pair_id, 0.5 + more[r.pair_id] * r.setting.strength, 0.1, strength=r.setting.strength, category=r.category
        )
        for r in one
    ]
    a, b = write_run(tmp_path / "a", one), write_run(tmp_path / "b", two)
    for run in (a, b):
        (run / "images").mkdir()
        for r in two:
            Image.new("RGB", (8, 8), "red").save(run / "images" / f"{r.pair_id}-{r.key}.png")
    found = compare(a, b, top=2)
    clip = found.table[found.table["metric"] == "clip_text_edit"].set_index("category")
    assert clip.loc["all", "difference"] == pytest.approx(1.5 * -0.1 / 3)
    assert clip.loc["change object", "difference"] == pytest.approx(0.225)
    assert clip.loc["add object", "pairs"] == 1
    assert np.isnan(clip.loc["add object", "low"])
    assert found.changed["pair_id"].tolist() == ["c", "b"]
    assert found.changed["strength"].tolist() == [2, 2]
    assert {p.name for p in write_comparison(found, tmp_path / "out")} >= {"compare.md", "compare.csv", "changed.png"}


def test_runs_are_compared_at_the_lpips_that_both_searched_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(name: str, clip: float, searched: float = 0.2, asked: float = 1, begin: float = 0) -> Path:
        first = [record(p, 0.0, 0.0, strength=begin) for p in "ab"]
        tried = [record(p, 9 * clip, 0.2, strength=8, at_lpips=(searched,)) for p in "ab"]
        tried.append(record("b", 5.0, 0.4, strength=16, at_lpips=(searched,)))
        more = [record(p, clip, 0.1, strength=asked, method=m) for p in "ab" for m in ("sae", "none")]
        return write_run(tmp_path / name, [*first, *more, *tried])

    one, two = run("one", 0.1), run("two", 0.2)
    found = compare(one, two)
    clip = found.table[found.table["metric"] == "clip_text_edit"].set_index("at")["difference"]
    assert clip.index.tolist() == pytest.approx([np.nan, 0.2], nan_ok=True)
    assert clip.tolist() == pytest.approx([0.2 / 3, 0.9])
    assert found.settings == 4
    assert found.changed["strength"].tolist() == [1, 1]
    table = comparison_tables(found)[0]
    assert [row[1] for row in table.rows] == ["strengths", "LPIPS 0.2"]
    assert not caplog.text
    at_lpips_alone = compare(run("three", 0.1, asked=3, begin=0), run("four", 0.2, asked=4, begin=0.1))
    assert (at_lpips_alone.settings, at_lpips_alone.table["at"].unique()) == (1, [0.2])
    assert comparison_tables(at_lpips_alone)[1].rows[0][-1] == "sae, mid.0, LPIPS 0.2"
    assert compare(one, run("five", 0.2, searched=0.3)).settings == 3
    assert "no LPIPS in common (0.2 and 0.3)" in caplog.text


def test_blocks_with_other_pairs_or_strengths_are_rows_of_their_own(tmp_path: Path) -> None:
    one = [record("a", 0.5, 0.1, strength=1, blocks=("mid.0",)), record("a", 0.7, 0.2, strength=2, blocks=("up.0.0",))]
    [group], _ = read_groups([write_run(tmp_path / "run", one)])
    assert sorted(arm.blocks for arm in arms_of(group.frame)[1]) == ["mid.0", "up.0.0"]


def test_a_comparison_with_long_prompts_and_damaged_pictures(tmp_path: Path) -> None:
    prompt = "a [duck]\n" + "that swims on a wide and quiet lake " * 4
    runs = []
    for name, clip in (("before", 0.5), ("after", 0.7)):
        records = [record(p, clip, 0.1, prompt=prompt) for p in "ab"]
        runs.append(write_run(tmp_path / name, records))
        (runs[-1] / "images").mkdir()
        for r in records:
            Image.new("RGB", (8, 8), "red").save(runs[-1] / "images" / f"{r.pair_id}-{r.key}.png")
    broken = next((runs[0] / "images").glob("a-*"))
    broken.write_bytes(broken.read_bytes()[:40])
    write_comparison(compare(*runs), tmp_path / "out")
    with Image.open(tmp_path / "out" / "changed.png") as sheet:
        assert sheet.width > 800  # wider than its four pictures, as the prompts are


def test_compare_refuses_two_saes_of_a_method(tmp_path: Path) -> None:
    records = [record(p, 0.5, 0.1, parts=PARTS | {"sae": sae}) for p in "ab" for sae in ("one", "two")]
    one, two = write_run(tmp_path / "one", records[::2]), write_run(tmp_path / "two", records)
    with pytest.raises(UserError, match="two holds a method with several SAEs"):
        compare(one, two)


def test_compare_refuses_what_is_not_comparable(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [record("a", 0.5, 0.1)])
    b = write_run(tmp_path / "b", [record("a", 0.5, 0.1, parts=PARTS | {"clip": "clip-2"})])
    c = write_run(tmp_path / "c", [record("z", 0.5, 0.1)])
    d = write_run(tmp_path / "d", [record("a", 0.6, 0.1, method="steering")])
    with pytest.raises(UserError, match=r"differ in clip \(clip-1, clip-2\)"):
        compare(a, b)
    with pytest.raises(UserError, match="no pair in common"):
        compare(a, c)
    with pytest.raises(UserError, match="did you mean 'lpips_base'"):
        compare(a, d, "lpips")
    assert compare(a, d).table["difference"].iloc[0] == pytest.approx(0.1)  # one method each: by strength


def info(**change: Any) -> dict[str, Any]:
    arms = [{"method": "sae", "options": {"only_add": False}, "blocks": ["mid.0"]}]
    content = {"model": "mini", "steps": 1, "strengths": [1.0], "arms": arms, "pairs": 2, "parts": PARTS, "code": {}}
    return content | {"command": ["riebench"], "finished": "2026-01-01T00:00:00"} | change


@pytest.mark.parametrize(
    ("records", "run", "said"),
    [
        ([record("a", 0.5, 0.1), record("b", 0.5, 0.1)], info(), None),
        ([record("a", 0.5, 0.1)], info(), "records of 1 pairs, run.json says 2"),
        ([record("a", 0.5, 0.1), record("b", 0.5, 0.1)], info(strengths=[1, 2]), "2 of 4 records are missing"),
        ([record("a", 0.5, 0.1), record("b", 0.5, 0.1, strength=3)], info(), "settings are not in run.json"),
        ([record("a", 0.5, 0.1), record("b", 0.5, 0.1, parts=PARTS | {"clip": "x"})], info(), "have the clip x"),
        ([record("a", 0.5, 0.1), record("b", 0.5, 0.1), record("a", 0.5, 0.1)], info(), "another record has, too"),
        ([record("a", 0.5, 0.1), record("b", 1.5, 0.1)], info(), "outside -1 to 1"),
        ([record("a", 0.5, 0.1), record("b", 0.5, -0.1)], info(), "below 0"),
        ([record("a", 0.5, None), record("b", 0.5, 0.1)], info(), "have no lpips_base"),
    ],
)
def test_contributed_folders_are_checked(
    tmp_path: Path, records: list[Record], run: dict[str, Any], said: str | None
) -> None:
    problems = check_folder(write_run(tmp_path / "r", records, run)).problems
    assert problems == [] if said is None else any(said in problem for problem in problems), problems


# --- bad input ----------------------------------------------------------------------------------------------------


def report(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["report", *words])
    out = capsys.readouterr()
    assert "Traceback" not in out.err
    return int(left.value.code or 0), out.out, out.err


def test_a_comparison_is_not_written_into_a_run(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    before = sorted(run.iterdir())
    with pytest.raises(SystemExit) as left:
        main(["compare", str(run), str(run), "--out", str(run)])
    assert (left.value.code, sorted(run.iterdir())) == (2, before)
    assert "is the run itself; give another folder" in capsys.readouterr().err


def damaged(folder: Path, change: Any) -> Path:
    file = folder / "records.jsonl"
    file.write_text(change(file.read_text()))
    return folder


def second_line(text: str, change: Any) -> str:
    lines = text.splitlines()
    lines[1] = change(lines[1])
    return "\n".join(lines) + "\n"


BAD = {
    "torn in the middle": (lambda t: second_line(t, lambda line: line[:80]), "line 2 is damaged"),
    "another version": (lambda t: second_line(t, lambda line: line.replace('"setting"', '"config"')), "'setting'"),
    "text for a number": (
        lambda t: second_line(t, lambda line: line.replace('"lpips_base":', '"lpips_base":"x","y":')),
        "line 2",
    ),
    "unknown category": (lambda t: t.replace('"category":2', '"category":12'), "line 9 is not a record"),
    "number as text": (
        lambda t: second_line(t, lambda line: line.replace('"lpips_base":0.0', '"lpips_base":"0"')),
        "line 2",
    ),
    "infinite": (
        lambda t: second_line(t, lambda line: line.replace('"lpips_base":0.0', '"lpips_base":1e999')),
        "line 2",
    ),
    "a list": (lambda t: second_line(t, lambda line: "[1, 2]"), "line 2"),
    "nothing": (lambda t: "", "no records"),
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_records_are_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str], run: Path, name: str) -> None:
    change, said = BAD[name]
    code, _, err = report(capsys, str(damaged(run, change)), "--out", "out")
    lines = err.strip().splitlines()
    assert code == 2
    assert said in lines[-1]
    assert len([line for line in lines if line.startswith("riebench:")]) == len(lines)
    assert not Path("out").exists()


def test_a_torn_last_line_is_said_and_left_out(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    code, _, err = report(capsys, str(damaged(run, lambda t: t[:-30])), "--out", "out", "--no-figures", "--no-page")
    assert code == 0
    assert "torn last line" in err
    assert len(load_records("out/records.parquet")) == 83


def test_places_that_do_not_do(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words, said in (
        ((str(tmp_path / "empty"), "--out", "out"), "holds no records.jsonl; give the folder of a finished run"),
        ((str(tmp_path / "nowhere"), "--out", "out"), "does not exist"),
        ((str(run), "--out", str(run)), "is the run itself"),
        ((str(run / "records.jsonl"), "--out", str(run)), "is the run itself"),
        ((str(run), "--out", str(run / "run.json")), "is a file"),
        ((str(run), "--out", "/proc/nowhere"), "cannot be written"),
        ((str(run), "--out", "out", "--budget", "0,1"), "expected LPIPS above 0"),
        ((str(run), "--out", "out", "--budget", "few"), "--budget is 'few'"),
        ((str(run), "--out", "out", "--rank-at", "0.7"), "expected one of the budgets"),
    ):
        code, _, err = report(capsys, *words)
        assert code == 2, words
        assert said in err
        assert len(err.strip().splitlines()) == 1


def test_a_report_never_goes_into_the_folder_of_its_run(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(run.rglob("*"))
    (tmp_path / "link").symlink_to(run)
    found = [report(capsys, str(run))]
    found.append(report(capsys, str(run), "--out", str(tmp_path / "link")))
    monkeypatch.chdir(run)
    found.append(report(capsys, ".", "--out", "."))
    monkeypatch.setenv("RIEBENCH_REPORT_OUT", str(run))
    found.append(report(capsys, str(run)))
    for code, _, err in found:
        assert code == 2
        assert "--out" in err
        assert len(err.strip().splitlines()) == 1
    assert sorted(run.rglob("*")) == before


def test_a_report_takes_the_place_of_an_earlier_one_and_of_nothing_else(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "paper"
    (out / "figures").mkdir(parents=True)
    for mine in ("figures/drawn-by-hand.pdf", "index.html", "notes.md"):
        (out / mine).write_text("mine")
    write_report([run], out, Options(resamples=200), figures=False, page=False)
    assert (out / "figures/drawn-by-hand.pdf").read_text() == (out / "index.html").read_text() == "mine"
    other = write_run(tmp_path / "other", curves({"sae": 0.3}))
    mixed = write_run(tmp_path / "mixed", [record("p0", 0.5, 0.1, parts={**PARTS, "clip": "clip-2"})])
    write_report([other], out, Options(resamples=200))
    assert (out / "figures/dose-response.png").exists()
    write_report([run, mixed], out, Options(resamples=200), figures=False, page=False)
    left = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and "group-" not in str(path)}
    assert left == {"leaderboard.md", "figures/drawn-by-hand.pdf", "notes.md"}
    write_report([run], out, Options(resamples=200), figures=False, page=False)
    assert not list(out.glob("group-*"))


def test_all_failed_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", [record(p, None, None) for p in "abc"])
    code, out, _ = report(capsys, str(run), "--out", "out")
    assert code == 0
    assert "no pair was scored: all 3 records failed" in out
    assert "0/3" in out
    assert "the masker finds no 'duck'" in Path("out/leaderboard.md").read_text()
    assert {p.name for p in Path("out/figures").iterdir()} == {f"failures.{e}" for e in ("png", "svg", "pdf")}
    assert "No pair was scored" in Path("out/index.html").read_text()


def test_a_category_with_one_pair_has_no_interval(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    records = [r for r in curves({"sae": 0.4}) if r.category != 2 or r.pair_id == "p01"]
    code, out, _ = report(capsys, str(write_run(tmp_path / "r", records)), "--out", "out", "--no-figures")
    assert code == 0
    assert "one pair only, so no interval: add object" in " ".join(out.split())
    board = pd.read_csv("out/leaderboard.csv").set_index(["category", "method"])
    assert board.loc[("add object", "sae"), "gain_pairs"] == 1
    assert np.isnan(board.loc[("add object", "sae"), "gain_low"])


def test_missing_and_broken_pictures_are_said(run: Path, tmp_path: Path) -> None:
    (run / "images").mkdir()
    Image.new("RGB", (8, 8)).save(run / "images" / "p00-base.png")
    (run / "images" / "p00-source.png").write_bytes(b"no picture")
    found = write_report([run], tmp_path / "out", figures=False).groups[0][0]
    assert any("1 of 12 pairs have pictures. 10 pictures are missing or damaged" in note for note in found.notes)
    shutil.rmtree(run / "images")
    write_report([run], tmp_path / "out", figures=False)
    assert "No pictures were kept" in (tmp_path / "out" / "index.html").read_text()


def test_a_missing_run_file_is_said(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    (run / "run.json").write_text('{"mod')
    assert report(capsys, str(run), "--out", "out", "--no-figures", "--no-page")[0] == 0
    assert "run.json is missing or damaged" in Path("out/leaderboard.md").read_text()
    with pytest.raises(UserError, match=r"run.json, key 'file'"):
        check_folder(run)


@pytest.mark.parametrize("text", ['{"code": [1]}', '{"command": 5}', "[" * 100_000])
def test_a_run_file_of_another_kind_is_said(capsys: pytest.CaptureFixture[str], run: Path, text: str) -> None:
    (run / "run.json").write_text(text)
    assert report(capsys, str(run), "--out", "out", "--no-figures", "--no-page")[0] == 0
    assert "run.json is missing or damaged" in Path("out/leaderboard.md").read_text()


def test_lpips_below_zero_makes_no_budget(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", [record(p, 0.5, -s, strength=s) for p in "ab" for s in (1.0, 2.0)])
    code, out, _ = report(capsys, str(run), "--out", "out", "--no-figures", "--no-page")
    assert code == 0
    assert "no score at matched LPIPS" in out


def test_reports_import_no_torch() -> None:
    modules = "analysis, arms, compare, curve_figures, figures, frame, groups, page, tables, written"
    code = f"import sys\nfrom riebench.report import {modules}\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    quick = "import sys, riebench.cli\nsys.exit(bool({'pandas', 'matplotlib', 'jinja2', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", quick], check=False).returncode == 0


def test_failures_that_differ_in_a_name_share_a_line() -> None:
    """A missing picture of each pair is one kind of failure; its line has the count and one of the names."""
    missing = [f"there is no picture {number}_0.png in pictures" for number in range(3)]
    grouped, other = failure_lines(pd.Series([*missing, "out of memory", None], dtype=object))
    assert grouped.startswith("failed 3 times: ")
    assert missing[0] in grouped
    assert "2 more" in grouped
    assert other == "failed 1 time: out of memory"


# --- where nothing arrives, and what the images mark ---------------------------------------------------------------


def late(gains: dict[float, float], source: float = 0.3) -> list[Record]:
    """Records of two methods whose gain depends on the LPIPS (the strength is ten times as much), over six pairs."""
    truth = {"clip_text_edit_base": 0.5, "clip_text_edit_source": 0.5 + source, "lpips_source_base": 0.1}
    return [
        record(f"p{i}", 0.5 + gain + 0.001 * i, lpips, method=method, strength=10 * lpips, truth=truth)
        for i in range(6)
        for method in ("sae", "steering")
        for lpips, gain in gains.items()
    ]


def test_ranks_are_read_where_a_gain_arrives(tmp_path: Path) -> None:
    found = analysed(write_run(tmp_path / "late", late({0.0: 0.0, 0.1: 0.0, 0.2: 0.0, 0.3: 0.01, 0.4: 0.2})))
    assert (found.rank_at, "largest gain" in found.why_there) == (0.4, True)
    assert found.why_there in found.notes
    early = analysed(write_run(tmp_path / "early", late({0.0: 0.0, 0.1: 0.1, 0.2: 0.15, 0.3: 0.1, 0.4: 0.2})))
    assert (early.rank_at, "middle" in early.why_there) == (0.2, True)


def test_a_rank_where_little_is_edited_is_said(tmp_path: Path) -> None:
    little = analysed(write_run(tmp_path / "little", late({0.0: 0.0, 0.002: 0.01, 0.004: 0.02})))
    assert any("of the gain of the source image" in note and "--at-lpips" in note for note in little.notes)
    tried = [r.model_copy(update={"at_lpips": (0.004,)}) for r in late({0.004: 0.02})]
    searched = analysed(write_run(tmp_path / "searched", late({0.0: 0.0, 0.002: 0.01}) + tried))
    assert any("a larger --at-lpips" in note for note in searched.notes)
    enough = analysed(write_run(tmp_path / "enough", late({0.0: 0.0, 0.002: 0.1, 0.004: 0.2})))
    assert not any("--at-lpips" in note for note in enough.notes)


def test_a_rank_over_few_pairs_that_held_out_contradicts_is_said(tmp_path: Path) -> None:
    def of(method: str, pair: str, points: tuple[tuple[float, float], ...]) -> list[Record]:
        truth = {"clip_text_edit_base": 0.5}
        path = enumerate(((0.0, 0.5), *points))
        return [record(pair, clip, lpips, method=method, strength=s, truth=truth) for s, (lpips, clip) in path]

    few = ((0.1, 0.6), (0.5, 1.4))  # at LPIPS 0.2 a gain of 0.3, but held-out one of 0.1
    names = [f"p{number}" for number in range(8)]
    records = [r for p in names for r in of("sae", p, few if p not in names[:2] else ((0.1, 0.6), (0.15, 0.6)))]
    records += [r for p in names for r in of("steering", p, ((0.2, 0.75), (0.6, 0.75)))]
    found = analysed(write_run(tmp_path / "r", records), budgets=(0.2,))
    first = found.overall.iloc[0]
    assert (first["method"], first["gain"], first["held_out_gain"]) == ("sae", pytest.approx(0.3), pytest.approx(0.1))
    [note] = [note for note in found.notes if note.startswith("held-out puts")]
    assert note == (
        "held-out puts steering, mid.0 first, the rank sae, mid.0: held-out is over all 8 pairs at one strength, "
        "the rank over the 6 pairs that reach LPIPS 0.2"
    )
    costly = {p for p in names if half_of(p) == 0}  # no strength of steering is within the LPIPS on this half
    dear = [record(p, 0.8, 0.3 * s, method="steering", strength=s) for p in costly for s in (1, 2)]
    dear += [r for r in records if r.setting.method == "sae" or r.pair_id not in costly]
    [note] = [n for n in analysed(write_run(tmp_path / "h", dear), budgets=(0.2,)).notes if n.startswith("held-out")]
    assert f"held-out is over {len(costly)} of 8 pairs at one strength" in note
    whole = [r for r in records if r.pair_id not in names[:2]]
    assert not any("held-out puts" in note for note in analysed(write_run(tmp_path / "w", whole), budgets=(0.2,)).notes)


def test_base_and_source_image_are_marked(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", late({0.0: 0.0, 0.1: 0.2}))
    images = curves_of(read_groups([run])[0][0]).images.set_index("image")
    assert images.loc["base image", ["clip_text_edit", "lpips_base", "gain"]].tolist() == pytest.approx([0.5, 0, 0])
    assert images.loc["source image", ["clip_text_edit", "lpips_base", "gain"]].tolist() == pytest.approx(
        [0.8, 0.1, 0.3]
    )
    draw_run_curve(curves_of(read_groups([run])[0][0]), run)
    text = (run / "curve.svg").read_text()
    assert "base image" in text
    assert "source image" in text


def test_every_panel_of_curves_has_one_scale(run: Path) -> None:
    figure = curves_by_category(analysed(run))
    assert figure is not None
    shown = [axes for axes in figure.axes if axes.has_data()]
    assert len(shown) == 3
    assert len({(*axes.get_xlim(), *axes.get_ylim()) for axes in shown}) == 1


def test_a_k_that_cannot_be_chosen_is_said(tmp_path: Path) -> None:
    records = [record("a", 0.5, 0.2 * s, strength=s, options={"k": k}) for s in (0.0, 1.0) for k in (2, 12)]
    found = analysed(write_run(tmp_path / "r", records), budgets=(0.1,))
    assert any("k is chosen on one half" in note for note in found.notes)
    assert not any("less than half of the pairs" in note for note in found.notes)

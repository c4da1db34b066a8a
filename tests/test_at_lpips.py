"""Strengths that are searched, pair by pair, for an LPIPS: the search, the run and what the report makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_helpers import record, write_run

import riebench
from riebench.cli import main
from riebench.engine.pair_work import PairWork
from riebench.records import Record, Setting, read_records
from riebench.records.folder import RECORDS
from riebench.report.analysis import Options, analyse
from riebench.report.curve_figures import draw_run_curve
from riebench.report.curves import curves_of
from riebench.report.groups import read_groups
from riebench.report.reached import ABOVE, BETWEEN, BEYOND, JUMP, MET
from riebench.report.tables import leaderboard, reached_table, settings_table
from riebench.settings.lpips_search import LEAST, NARROW, LpipsSearch, SearchOptions, parse_search
from riebench.util.errors import UserError

GIVEN = (0.25, 0.5, 1.0, 1.5, 2.0)
SETTING = Setting(method="steering", blocks=("mid.0",), strength=1, steps=4, on_steps=(0, 1))
BUDGETS = (0.05, 0.1, 0.2)


def searched(
    lpips: Callable[[float], float | None], options: SearchOptions, strengths: tuple[float, ...] = GIVEN
) -> dict[float, float | None]:
    """All points at the end of a search."""
    search = LpipsSearch(options, 0, SETTING, {strength: lpips(strength) for strength in strengths})
    while settings := search.next_settings():
        tried = [setting.strength for setting in settings]
        assert not set(tried) & set(search.points)
        assert all(setting.model_copy(update={"strength": SETTING.strength}) == SETTING for setting in settings)
        search.points.update({strength: lpips(strength) for strength in tried})
    return search.points


def sides(points: dict[float, float | None], budget: float) -> tuple[float, float]:
    """The strengths between which the LPIPS first passes a budget."""
    path = [(0.0, 0.0), *sorted((s, v) for s, v in points.items() if v is not None)]
    after = next(i for i, (_, value) in enumerate(path) if value >= budget)
    return path[after - 1][0], path[after][0]


@pytest.mark.parametrize(
    "lpips",
    [
        lambda s: 0.02 * s,
        lambda s: 0.4 / (1 + np.exp(-8 * (s - 1.3))),
        lambda s: 0.3 * s**4 / (40 + s**4),
        lambda s: 0.01 * s + 0.2 * (s > 3) * (s - 3),
        lambda s: min(0.9, 2 * s),
    ],
    ids=["straight", "steep", "flat at first", "bent", "all below the least strength"],
)
def test_every_budget_is_met_in_few_runs(lpips: Callable[[float], float]) -> None:
    points = searched(lpips, SearchOptions(budgets=BUDGETS))
    for budget in BUDGETS:
        assert any(abs(value - budget) <= 0.05 * budget for value in points.values() if value)
    assert len(points) <= 8 * len(BUDGETS)


def test_smooth_curves_take_two_runs_for_each_budget() -> None:
    """Drawn ones, that differ in height, place and steepness, from one strength that was asked for."""
    draw, runs = np.random.default_rng(0), []
    for _ in range(100):
        top, half, power = draw.uniform(0.2, 0.6), np.exp(draw.normal(1, 0.7)), draw.uniform(1, 4)

        def lpips(s: float, top: float = top, half: float = half, power: float = power) -> float:
            return float(top * s**power / (half**power + s**power))

        points = searched(lpips, SearchOptions(budgets=BUDGETS), (1,))
        met = [any(abs(value - budget) <= 0.05 * budget for value in points.values() if value) for budget in BUDGETS]
        assert all(met[:2])
        runs.append((len(points) - 1) / len(BUDGETS))
    assert np.mean(runs) < 2.2


def test_a_jump_is_narrowed_from_both_sides() -> None:
    points = searched(lambda s: 0.01 * s + 0.3 * (s > 1.234), SearchOptions(budgets=BUDGETS))
    low, high = sides(points, 0.1)
    assert low < 1.234 < high <= low / (1 - NARROW)
    assert not any(0.05 < value < 0.3 for value in points.values() if value)
    assert len(points) <= 24


def test_a_budget_out_of_reach_is_looked_for_up_to_the_largest_strength() -> None:
    points = searched(lambda s: 0.04 * s / (1 + s), SearchOptions(budgets=(0.2,)))
    assert max(points) == 32
    assert max(searched(lambda s: 0.04 * s / (1 + s), SearchOptions(budgets=(0.2,), most=5))) == 5
    asked_above = searched(lambda s: 0.001 * s, SearchOptions(budgets=(0.05,), most=8), (1, 100))
    assert set(asked_above) == {1, 8, 100}


def test_an_lpips_that_every_strength_costs_more_than_ends_the_search() -> None:
    points = searched(lambda s: 0.3 + 0.001 * s, SearchOptions(budgets=BUDGETS))
    assert 0 < min(points) <= LEAST
    assert len(points) <= 16 * len(BUDGETS)


@pytest.mark.parametrize("asked", [(0.5, 1, 2), (2, 4), (0.001, 0.002)])
def test_strengths_that_all_cost_the_same_may_be_too_strong_or_too_weak(asked: tuple[float, ...]) -> None:
    points = searched(lambda s: min(0.9, 5 * s) if s > 0.01 else 0.0, SearchOptions(budgets=BUDGETS), asked)
    for budget in BUDGETS:
        assert any(abs(value - budget) <= 0.05 * budget for value in points.values() if value), budget


def test_the_search_ends_where_there_is_no_picture_and_where_the_strength_does_not_matter() -> None:
    assert max(searched(lambda s: None if s > 6 else 0.01 * s, SearchOptions(budgets=(0.2,)))) == 16
    assert set(searched(lambda s: None, SearchOptions(budgets=BUDGETS))) == set(GIVEN)
    assert len(searched(lambda s: 0.07, SearchOptions(budgets=BUDGETS))) <= len(GIVEN) + 3
    assert len(searched(lambda s: 0.0, SearchOptions(budgets=BUDGETS))) == len(GIVEN) + 2


@pytest.mark.parametrize(
    "lpips", [lambda s: 0.053 + 1e-4 * s, lambda s: 0.0474 * (1 - np.exp(-s))], ids=["low", "high"]
)
def test_a_flat_curve_is_left_in_large_steps(lpips: Callable[[float], float]) -> None:
    assert len(searched(lpips, SearchOptions(budgets=(0.05,), most=2048), (1,))) <= 12


def test_strengths_without_any_effect_do_not_end_the_search_below_the_largest() -> None:
    points = searched(lambda s: max(0.0, 0.0005 * (s - 600)), SearchOptions(budgets=(0.05,), most=2048), (1,))
    assert any(abs(value - 0.05) <= 0.0025 for value in points.values() if value)


def test_a_budget_below_a_strength_without_a_picture_is_met() -> None:
    points = searched(lambda s: None if s > 1.5 else 0.01 * s**4, SearchOptions(budgets=(0.04,)), (1,))
    assert any(abs(value - 0.04) <= 0.002 for value in points.values() if value)
    assert any(value is None for value in points.values())


def test_the_same_strength_by_two_sums_is_one_point() -> None:
    strengths = (3.3, 33 * 0.1, 9.9)
    assert len(set(strengths)) == 3
    points = searched(lambda s: 0.3 * (s / 26.4) ** 2, SearchOptions(budgets=(0.05,)), strengths)
    assert any(abs(value - 0.05) <= 0.0025 for value in points.values() if value)


def test_where_the_lpips_first_comes_to_a_budget_counts() -> None:
    """A path that falls back and rises again is met on its first way up."""
    points = searched(lambda s: 0.15 * np.sin(s) + 0.15 * (s > 4), SearchOptions(budgets=(0.1,)))
    [met] = [s for s, value in sorted(points.items()) if abs(value - 0.1) <= 0.005][:1]
    assert met < np.pi / 2


@pytest.mark.parametrize("budgets", [[0.0], [-1], ["x"], [float("inf")], [0.1, float("nan")]])
def test_wrong_budgets_are_said(budgets: list[Any]) -> None:
    with pytest.raises(UserError, match="at_lpips"):
        parse_search(budgets, {})


def test_budgets_come_once_and_in_order() -> None:
    assert parse_search(["0.2", 0.1, 0.2], {"most": None}).budgets == (0.1, 0.2)


# --- runs ---------------------------------------------------------------------------------------------------------

RUN: dict[str, Any] = {
    "method": ["steering", "neurons"],
    "block": ["mid.0", "up.0.0"],
    "category": [1],
    "limit": 2,
    "strength": [0.5, 1],
    "quiet": True,
    "keep_images": 1,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    out = tmp_path_factory.mktemp("at-lpips") / "run"
    found = riebench.run(**RUN, at_lpips=[0.02, 0.06], out=out)
    return out, found.records


def by_course(records: list[Record]) -> dict[tuple[str, str], list[Record]]:
    found: dict[tuple[str, str], list[Record]] = {}
    for one in records:
        found.setdefault((one.pair_id, one.setting.method), []).append(one)
    return found


def test_pictures_are_made_at_the_budgets_and_recorded_like_any_other(made: tuple[Path, list[Record]]) -> None:
    out, records = made
    courses = by_course(records)
    assert len(courses) == 4
    for (pair, method), mine in courses.items():
        assert len(mine) <= 16
        assert [r.at_lpips for r in mine if r.setting.strength in (0.5, 1)] == [None, None]
        assert {r.at_lpips for r in mine if r.setting.strength not in (0.5, 1)} == {(0.02, 0.06)}
        for budget in (0.02, 0.06):
            values = [r.metrics["lpips_base"] for r in mine]
            near = any(abs(value - budget) <= 0.05 * budget for value in values if value is not None)
            assert near or max(r.setting.strength for r in mine) == 32, (pair, method, budget)
    one = next(r for r in records if r.at_lpips)
    assert (out / "images" / f"{one.pair_id}-{one.key}.png").exists() == (one.pair_id == records[0].pair_id)
    # Who asks for that very strength gets the same record.
    asked = {**RUN, "method": one.setting.method, "strength": one.setting.strength, "keep_images": 0}
    again = riebench.run(**{**asked, "limit": None, "category": None, "ids": [one.pair_id]}, batch=1)
    [same] = again.records
    assert same.key == one.key
    for metric, value in one.metrics.items():
        assert same.metrics[metric] == pytest.approx(value, abs=2e-3), metric


@pytest.mark.parametrize("pairs", [2, 1])
def test_a_search_goes_on_where_it_was_broken_off(made: tuple[Path, list[Record]], pairs: int, tmp_path: Path) -> None:
    """With the records of some pairs it comes to the same records; nothing is made twice."""
    _, records = made
    kept = [one for one in records if one.pair_id in sorted({one.pair_id for one in records})[:pairs]]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RECORDS).write_text("".join(f"{one.model_dump_json()}\n" for one in kept))
    done = riebench.run(**RUN, at_lpips=[0.02, 0.06], out=tmp_path / "run")
    assert {one.key: one.metrics for one in done.records} == {one.key: one.metrics for one in records}
    assert done.session.written == len(records) - len(kept)


def test_part_of_a_pair_is_completed(made: tuple[Path, list[Record]], tmp_path: Path) -> None:
    _, records = made
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RECORDS).write_text("".join(f"{one.model_dump_json()}\n" for one in records[:-7]))
    done = riebench.run(**RUN, at_lpips=[0.02, 0.06], out=tmp_path / "run")
    for (pair, method), mine in by_course(done.records).items():
        lpips = {one.setting.strength: one.metrics["lpips_base"] for one in mine}
        search = LpipsSearch(SearchOptions(budgets=(0.02, 0.06)), 0, mine[0].setting, lpips)
        assert search.next_strengths() == [], (pair, method)


def test_further_budgets_use_what_is_known(made: tuple[Path, list[Record]], tmp_path: Path) -> None:
    _, records = made
    out = tmp_path / "run"
    out.mkdir()
    (out / RECORDS).write_text("".join(f"{one.model_dump_json()}\n" for one in records))
    done = riebench.run(**RUN, at_lpips=[0.033], out=out)
    assert {one.key for one in records} < {one.key for one in done.records}
    assert done.session.written < len(records)
    values = [r.metrics["lpips_base"] for r in by_course(done.records)[records[0].pair_id, "steering"]]
    assert any(abs(value - 0.033) <= 0.05 * 0.033 for value in values if value is not None)


def test_strengths_that_were_run_before_are_points_of_the_search_and_stay_asked_for(tmp_path: Path) -> None:
    asked: dict[str, Any] = {**RUN, "method": "steering", "limit": 1, "keep_images": 0, "out": tmp_path / "run"}
    riebench.run(**{**asked, "strength": [0.5, 8]})
    done = riebench.run(**{**asked, "strength": 1}, at_lpips=[0.02, 0.06])
    settings = {one.setting.strength: one.at_lpips for one in read_records(tmp_path / "run")}
    assert [settings[strength] for strength in (0.5, 1, 8)] == [None] * 3
    assert done.session.written == len(settings) - 2
    tried = next(strength for strength, budgets in settings.items() if budgets)
    assert riebench.run(**{**asked, "strength": tried}).session.written == 0
    assert {r.setting.strength: r.at_lpips for r in read_records(tmp_path / "run")} == settings | {tried: None}


def test_a_fault_in_the_search_is_a_record_and_costs_no_other(
    made: tuple[Path, list[Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, records = made
    asked = {**RUN, "keep_images": 0, "strength": [0.5, 1]}
    scored, score = [], PairWork.score

    def once(self: PairWork, pictures: Any) -> list[Record]:
        scored.append(self.task.pair.id)
        if scored.count(self.task.pair.id) > 1:
            raise RuntimeError("no more")
        return score(self, pictures)

    monkeypatch.setattr(PairWork, "score", once)
    done = riebench.run(**asked, at_lpips=[0.02, 0.06], out=tmp_path / "search")
    assert {r.setting.strength for r in done.records if r.status == "ok"} == {0.5, 1}
    failed = [r for r in done.records if r.status == "failed"]
    assert {(r.pair_id, r.where, r.reason) for r in failed} == {(r.pair_id, "search", "no more") for r in records}


def test_a_pair_that_cannot_be_observed_again_is_a_failure(
    made: tuple[Path, list[Record]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, records = made
    (tmp_path / "run").mkdir()
    asked = "".join(f"{one.model_dump_json()}\n" for one in records if not one.at_lpips)
    (tmp_path / "run" / RECORDS).write_text(asked)
    monkeypatch.setattr(PairWork, "observe", lambda self: 1 / 0)
    done = riebench.run(**RUN, at_lpips=[0.02, 0.06], out=tmp_path / "run")
    failed = [one for one in done.records if one.status == "failed"]
    assert {one.pair_id for one in failed} == {one.pair_id for one in records}
    assert {one.reason for one in failed} == {"division by zero"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--at-lpips", "x"], "at_lpips"),
        (["--at-lpips", "0.1", "--at-lpips-within", "2"], "within"),
        (["--at-lpips-most", "3"], "give it with --at-lpips"),
        (["--at-lpips-within", "0"], "give it with --at-lpips"),
    ],
)
def test_wrong_options(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--method", "steering", "--block", "mid.0", *words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_the_plan_says_how_many_more(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--method", "steering", "--block", "mid.0", "--limit", "1", "--at-lpips", "0.1,0.2", "--dry-run"]
    with pytest.raises(SystemExit):
        main(words)
    assert "45 records, and about 54 more in search of an LPIPS" in capsys.readouterr().out


# --- the report ---------------------------------------------------------------------------------------------------


def points(pair: str, *path: tuple[float, float], tried: tuple[float, ...] = ()) -> list[Record]:
    """Records of a pair at (strength, LPIPS), with a CLIP of ten times the strength; some of them tried in a search."""
    return [
        record(pair, 10 * s, lpips, method="steering", options={}, strength=s, at_lpips=(0.1,) if s in tried else None)
        for s, lpips in path
    ]


@pytest.fixture
def report(tmp_path: Path) -> Any:
    records = [
        *points("a", (1, 0.05), (1.5, 0.098), (2, 0.3), tried=(1.5,)),
        *points("b", (1, 0.05), (1.4, 0.06), (1.41, 0.2), (2, 0.3), tried=(1.4, 1.41)),
        *points("c", (1, 0.05), (2, 0.06), (4, 0.07), tried=(4,)),
        *points("d", (1, 0.05), (2, 0.15)),
        *points("e", (1, 0.12), (2, 0.15)),
    ]
    groups, _ = read_groups([write_run(tmp_path / "run", records)])
    return analyse(groups[0], Options(resamples=100))


def test_measured_points_are_the_score(report: Any) -> None:
    assert report.budgets == [0.1]
    row = report.overall.iloc[0]
    between = 14 + 0.1 * (0.1 - 0.06) / (0.2 - 0.06)
    assert row["score@0.1"] == pytest.approx(np.mean([15, between, 15]))
    assert (row["score@0.1_pairs"], row["measured@0.1"]) == (3, 1)
    assert "≈" in leaderboard(report).rows[0][5]


def test_how_each_pair_stands_to_a_budget(report: Any) -> None:
    found = report.reached.set_index("pair_id")
    assert found["outcome"].to_dict() == {"a": MET, "b": JUMP, "c": BEYOND, "d": BETWEEN, "e": ABOVE}
    assert found.loc["a", ["strength", "lpips"]].tolist() == [1.5, 0.098]
    assert found.loc["b", ["strength", "lpips", "next_strength", "next_lpips"]].tolist() == [1.4, 0.06, 1.41, 0.2]
    assert pd.isna(found.loc["c", "strength"])
    assert found.loc["c", "largest_lpips"] == 0.07
    assert found.loc["e", "least_lpips"] == 0.12
    table = reached_table(report)
    assert table is not None
    assert table.rows == [["steering", "mid.0", "1 / 1 / 1 / 1 / 1"]]


def test_each_k_stands_for_itself(tmp_path: Path) -> None:
    path = {5: ((1, 0.05), (2, 0.3), (1.5, 0.1)), 9: ((1, 0.01), (32, 0.04))}
    records = [
        record("a", s, lpips, options={"k": k}, strength=s, at_lpips=None if s in (1, 2) else (0.1,))
        for k, mine in path.items()
        for s, lpips in mine
    ]
    other = [record("a", 1, lpips, method="steering", strength=s) for s, lpips in ((1.0, 0.05), (2.0, 0.2))]
    found = analyse(read_groups([write_run(tmp_path / "run", [*records, *other])])[0][0], Options(resamples=100))
    mine = found.reached[found.reached["method"] == "sae"].set_index("k")
    assert mine["outcome"].to_dict() == {5: MET, 9: BEYOND}
    assert mine["largest_lpips"].to_dict() == {5: 0.3, 9: 0.04}
    table = reached_table(found)
    assert table is not None
    assert [(row[0], row[2]) for row in table.rows] == [
        ("sae k=5", "1 / 0 / 0 / 0 / 0"),
        ("sae k=9", "0 / 0 / 0 / 1 / 0"),
    ]


def test_strengths_of_a_search_are_no_points_of_the_mean_curve(report: Any) -> None:
    assert report.arms[0].strengths == [1, 2]
    assert report.curves["strength"].unique().tolist() == [1, 2]


def test_the_table_of_a_run_has_the_scores_of_the_searched_lpips(tmp_path: Path) -> None:
    records = [
        *points("a", (1, 0.05), (1.5, 0.098), (2, 0.3), tried=(1.5,)),
        *points("b", (1, 0.05), (1.6, 0.101), (2, 0.3), tried=(1.6,)),
        *points("c", (1, 0.05), (2, 0.06), (4, 0.07), tried=(4,)),
    ]
    run = write_run(tmp_path / "run", records)
    found = curves_of(read_groups([run])[0][0])
    (row,) = [row for row in settings_table(found).rows if "0.1" in row[3]]
    assert row[3:6] == ["at LPIPS 0.1", "3", "2"]
    assert row[6].startswith("15.500")
    assert analyse(found.group, Options(resamples=100)).overall.iloc[0]["score@0.1"] == pytest.approx(15.5)
    draw_run_curve(found, run)
    assert "at the searched LPIPS" in (run / "curve.svg").read_text()

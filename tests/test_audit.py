"""The audit: each statistic against numbers worked out otherwise, what is left out, own runs, resume, bad input."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_helpers import record, write_run
from scipy import stats

from riebench.audit import auditing
from riebench.audit.auditing import audit
from riebench.audit.composites import composite
from riebench.audit.evidence import gather, table_of
from riebench.audit.faults import fault_effects, fault_summary, lost_pairs
from riebench.audit.findings import PARTS, VERDICTS, Findings, find
from riebench.audit.gaming import Gaming, gaming
from riebench.audit.noise import by_chance, pooled, spread, turn_shares, turns
from riebench.audit.own_runs import OwnRun, own_runs
from riebench.audit.part import compare_arms
from riebench.audit.power import SIZES, pairs_needed, power_curves, told_apart
from riebench.audit.same_mask import arms_before_and_after, before_and_after, differences_left, pictures_at
from riebench.audit.truth import (
    INTERVENTIONS,
    METHODS,
    SETTINGS,
    WITHIN,
    agreement_with_truth,
    changed_agreement,
    within_settings,
    word,
)
from riebench.cli import main
from riebench.engine.request import resolve
from riebench.engine.run_options import RunOptions
from riebench.records import Record
from riebench.report.groups import read_groups
from riebench.settings.protocols import ONE_FAULT, PAPER, PROTOCOLS, RIEBENCH
from riebench.stats.correlation import DRAWS
from riebench.stats.resample import Bootstrap
from riebench.util.errors import UserError

STRENGTHS = (0.5, 1.0, 2.0)
RNG = np.random.default_rng(5)


def values(**arms: list[float]) -> pd.DataFrame:
    frame = pd.DataFrame(arms)
    frame.index = pd.Index([f"p{i:02}" for i in range(len(frame))], name="pair_id")
    return frame


def made(methods: dict[str, float], pairs: int = 12, seed: int = 1, shift: float = 0.0, **given: Any) -> list[Record]:
    """Records of methods: CLIP and success grow with strength, by the method's slope and each pair's own noise."""
    rng = np.random.default_rng(seed)
    base, noise = 0.5 + 0.05 * rng.normal(size=pairs), rng.normal(size=(pairs, len(methods)))
    records = []
    for p, (m, (method, slope)), strength in product(range(pairs), enumerate(methods.items()), STRENGTHS):
        gain = strength * (slope + 0.01 * noise[p, m]) + shift
        truth = {
            "clip_text_original": 0.8 - gain,
            "clip_text_edit_base": base[p],
            "edit_success": float(gain > 0.05),
            "kept": 1.0 if gain < 0.15 else 0.5,
        }
        one = record(
            f"p{p:02}", base[p] + gain, 0.05 * strength, method=method, strength=strength, seed=seed + p,
            category=1 + p % 2, options={}, truth=truth, **given,
        )  # fmt: skip
        records.append(one)
    return records


def group_of(*records: Record, name: str = "run") -> Any:
    (group,), _ = read_groups([write_run(Path(name), list(records))])
    return group


def test_arms_are_compared_as_scipy_and_holm_say() -> None:
    a, b, c = RNG.normal(size=(3, 10))
    found = compare_arms(values(a=a, b=b + 3, c=c), flips=2000)
    assert found[["a", "b"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    test = stats.permutation_test((a - c,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert found["p"][1] == pytest.approx(test.pvalue, abs=1e-3)
    assert found["told_apart"].tolist() == [True, False, True]
    assert found["difference"].tolist() == pytest.approx([np.mean(a - b - 3), np.mean(a - c), np.mean(b + 3 - c)])


def test_many_arms_can_be_told_apart_with_few_flips() -> None:
    rng = np.random.default_rng(0)
    arms = {f"arm{i}": 10 * i + rng.normal(size=20) for i in range(15)}
    assert compare_arms(values(**arms), flips=1000)["told_apart"].all()


def test_what_holm_does_not_allow_is_not_told_apart() -> None:
    d = np.array([1.0] * 9 + [-1.0])
    found = compare_arms(values(a=[0.0] * 10, b=d.tolist(), c=(2 * d).tolist()))
    assert found["p"].tolist() == pytest.approx([22 / 1024] * 3)
    assert not found["told_apart"].any()  # 3 x .0215


def test_noise_is_the_deviation_between_runs_beside_the_standard_error() -> None:
    each = RNG.normal(size=(3, 200))
    runs = [{"gain": values(a=row.tolist(), few=[0.0, 1.0] + [np.nan] * 198)} for row in each]
    found = spread(runs, [1] * 200)
    (row,) = found.to_dict("records")  # 'few' has a value on two pairs alone
    assert row["sd_seeds"] == pytest.approx(each.mean(1).std(ddof=1))
    error = np.sqrt((each.std(1, ddof=1) ** 2 / 200).mean())
    assert row["standard_error"] == pytest.approx(error, rel=0.03)
    assert row["ratio"] == pytest.approx(row["sd_seeds"] / row["standard_error"])
    two = pd.concat([found, found.assign(arm="b", sd_seeds=3.0, standard_error=1.0)])
    (joined,) = pooled(two).to_dict("records")
    squares = (row["sd_seeds"] ** 2 + 9) / (row["standard_error"] ** 2 + 1)
    assert (joined["ratio"], joined["arms"]) == (pytest.approx(np.sqrt(squares)), 2)


def test_orders_that_another_seed_turns_round_are_counted() -> None:
    """a is far above b in two runs and far below in the third; c is level with b by turns."""
    small = [0.01, -0.01] * 6
    runs = []
    for sign, tilt in ((1, 0.001), (1, -0.001), (-1, 0.001)):
        a = [sign + x / 10 for x in small]
        runs.append({"gain": values(a=a, b=[0.0] * 12, c=[x + tilt for x in small])})
    found = turns(runs).set_index(["a", "b"])
    # Of six ordered pairs of runs, the third run is in four.
    assert found.loc[("a", "b"), ["checks", "turned", "told_apart", "told_apart_turned"]].tolist() == [6, 4, 6, 4]
    assert found.loc[("b", "c"), ["turned", "told_apart", "told_apart_turned"]].tolist() == [4, 0, 0]
    assert found.loc[("a", "b"), ["least", "most"]].tolist() == pytest.approx([-1, 1])
    (row,) = turn_shares(turns(runs)).to_dict("records")
    assert row["turned"] == pytest.approx(12 / 18)
    assert row["told_apart_turned"] == pytest.approx(8 / 12)
    assert np.isnan(turn_shares(turns([{"gain": run["gain"][["b", "c"]]} for run in runs]))["told_apart_turned"][0])


def test_power_is_that_of_the_t_test() -> None:
    difference = RNG.normal(scale=0.05, size=400)
    difference *= 0.05 / difference.std()
    frame = values(a=difference.tolist(), b=[0.0] * 400, c=[0.0] * 400)
    curves = power_curves({"gain": frame}, ["a", "b", "c"])
    assert set(zip(curves["a"], curves["b"], strict=True)) == {("a", "b"), ("a", "c")}  # b and c never differ
    curve = curves[curves["b"] == "b"].set_index("pairs")["power"]
    for size in (80, 160, 320):
        shift, critical = 0.01 / (0.05 / np.sqrt(size)), stats.t.ppf(0.975, size - 1)
        exact = stats.nct.sf(critical, size - 1, shift) + stats.nct.cdf(-critical, size - 1, shift)
        assert curve[size] == pytest.approx(exact, abs=0.07)
    needed = pairs_needed(curves)
    assert needed["comparisons"].tolist() == [2]
    assert needed["median"][0] == pytest.approx(198, rel=0.15)  # (1.96 + .8416)^2 x (.05 / .01)^2, and two
    never = pairs_needed(curves.assign(power=0.1))
    assert np.isinf(never["median"][0])
    assert pairs_needed(curves.assign(power=1.0))["least"][0] == pytest.approx(SIZES[0])


def test_a_draw_of_equal_differences_is_no_power() -> None:
    frame = values(a=[0.0] * 60 + [1.0], b=[0.0] * 61)
    curve = power_curves({"edit_success": frame}, ["a", "b"]).set_index("pairs")["power"]
    assert curve[10] < 0.2  # most draws of ten hold no pair that differs


def test_more_pairs_tell_more_apart() -> None:
    a = RNG.normal(size=60)
    frame = values(a=a.tolist(), b=(a + RNG.normal(0.5, 0.8, size=60)).tolist(), c=[np.nan] * 40 + [0.0] * 20)
    found = told_apart({"gain": frame}, (5, 20, 1000))
    assert found["pairs"].tolist() == [5, 20, 60]
    assert found["arms"].tolist() == [2] * 3  # c has too few pairs
    assert found["share"].is_monotonic_increasing
    assert found["share"].iloc[-1] == compare_arms(frame[["a", "b"]])["told_apart"].mean() == 1
    assert found["share"].iloc[0] < 0.5


def test_a_subsample_has_each_pair_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[pd.Index] = []

    def compared(values: pd.DataFrame, flips: int, seed: int) -> pd.DataFrame:
        drawn.append(values.index)
        return compare_arms(values, flips, seed)

    monkeypatch.setattr("riebench.audit.power.compare_arms", compared)
    told_apart({"gain": values(a=[0.0, 1.0] * 10, b=[1.0] * 20)}, (15, 20))
    assert {len(index) for index in drawn} == {15, 20}
    assert all(index.is_unique for index in drawn)
    assert len({tuple(sorted(index)) for index in drawn}) > 10


def test_agreement_with_the_truth_is_spearmans() -> None:
    table = table_of(group_of(*made({"sae": 0.04, "steering": 0.06, "caa": 0.1, "random": 0.01})))
    readings = {0.05: table.at(0.05)}
    found = agreement_with_truth(table, readings).set_index(["level", "metric"])["correlation"]
    done, gain = table.by_setting("done"), table.by_setting("gain")
    pd.testing.assert_frame_equal(done, table.by_setting("edit_success") * table.by_setting("kept"))
    assert 0.5 in done.to_numpy()
    assert found[SETTINGS, "gain"] == pytest.approx(stats.spearmanr(done.mean(), gain.mean())[0])
    means = {name: readings[0.05][name].mean() for name in ("done", "margin")}
    assert found[METHODS, "margin"] == pytest.approx(stats.spearmanr(means["done"], means["margin"])[0])
    varied = [name for name in done if done[name].nunique() > 1]
    each = [stats.spearmanr(done[name], gain[name])[0] for name in varied]
    assert found[WITHIN, "gain"] == pytest.approx(np.mean(each))
    assert not {"kept", "clip_text_edit_base"} & set(found.index.get_level_values("metric"))


def test_agreement_is_positive_where_lower_is_better_and_does_not_turn_with_its_level() -> None:
    """clip_text_original falls as the gain grows; as a score it agrees wherever gain does."""
    table = table_of(group_of(*made({"sae": 0.04, "steering": 0.06, "caa": 0.1, "random": 0.01})))
    found = agreement_with_truth(table, {0.05: table.at(0.05)}).set_index(["level", "metric"])["correlation"]
    assert found[SETTINGS, "clip_text_original"] == pytest.approx(found[SETTINGS, "gain"], abs=0.02)
    assert found[SETTINGS, "lpips_base"] < 0  # what changes more is no better for it
    interventions = agreement_with_truth(table, {0.05: table.at(0.05)}).set_index(["level", "metric"])["points"]
    assert (interventions[METHODS, "gain"], interventions[INTERVENTIONS, "gain"]) == (4, 3)  # random is a control


def test_a_protocol_is_compared_on_what_both_have() -> None:
    methods = {"sae": 0.04, "steering": 0.06, "caa": 0.1}
    mended = table_of(group_of(*made(methods), name="mended"))
    fewer = [r for r in made(methods) if r.setting.method != "caa" and r.pair_id < "p09"]
    (row,) = (
        changed_agreement(mended, table_of(group_of(*fewer, name="same")), "p")
        .query("score == 'gain'")
        .to_dict("records")
    )
    assert (row["settings"], row["pairs"], row["difference"]) == (6, 9, 0)
    names = [name for name in mended.by_setting("gain") if not name.startswith("caa")]
    gain, done = (mended.by_setting(metric)[names].iloc[:9].mean() for metric in ("gain", "done"))
    assert row["without"] == pytest.approx(stats.spearmanr(gain, done)[0])
    turned = [
        r.model_copy(update={"metrics": {**r.metrics, "clip_text_edit": 1 - (r.metrics["clip_text_edit"] or 0)}})
        for r in fewer
    ]
    changed = changed_agreement(mended, table_of(group_of(*turned, name="turned")), "p").set_index("score").loc["gain"]
    assert changed["high"] < 0
    assert changed["difference"] == pytest.approx(changed["with"] - changed["without"])


def test_a_pair_without_one_of_the_settings_has_no_part_in_their_means() -> None:
    records = made({"sae": 0.04, "steering": 0.06, "caa": 0.1})
    (lost,) = (one for one in records if (one.pair_id, one.setting.method, one.setting.strength) == ("p03", "sae", 2.0))
    table = table_of(group_of(*(one for one in records if one is not lost)))
    found = agreement_with_truth(table, {}).set_index(["level", "metric"]).loc[(SETTINGS, "gain")]
    done, gain = (table.by_setting(name).drop("p03").mean() for name in ("done", "gain"))
    assert (found["pairs"], found["correlation"]) == (11, pytest.approx(stats.spearmanr(done, gain)[0]))


def test_agreement_within_settings_has_an_interval_over_pairs() -> None:
    x = RNG.normal(size=300)
    columns = np.stack([x, x], 1)
    truth = np.stack([0.6 * x + 0.8 * RNG.normal(size=300), np.ones(300)], 1)  # the second does not vary
    weights = Bootstrap([1] * 300).weights[:, :DRAWS].T
    middle, low, high, settings = within_settings(columns, truth, weights)
    assert (settings, middle) == (1, pytest.approx(stats.spearmanr(x, truth[:, 0])[0]))
    assert (low, high) == (pytest.approx(middle - 0.08, abs=0.03), pytest.approx(middle + 0.08, abs=0.03))
    assert np.isnan(within_settings(columns, np.ones((300, 2)), weights)[0])


def test_games_are_told_from_the_best_intervention_or_not() -> None:
    best = RNG.normal(1.0, 0.1, size=20)
    frame = values(
        sae=best.tolist(),
        steering=(best - 0.5).tolist(),
        paste=(best + 0.2).tolist(),
        noise=(best - 0.4).tolist(),
        none=(best + 0.01 * np.resize([1, 0, -1, 0], 20)).tolist(),
    )
    found = gaming({"gain": frame}, ["sae", "steering"], ["paste", "noise", "none"], [1] * 20).set_index("game")
    assert found["best"].tolist() == ["sae"] * 3
    assert found["stands"].tolist() == ["above", "below", "not told apart from"]
    assert found["wins"].tolist() == pytest.approx([1.0, 0.5, 0.75])
    assert found["difference"].tolist() == pytest.approx([0.2, -0.4, 0.0])


def test_an_intervention_of_few_pairs_is_not_the_best() -> None:
    frame = values(sae=[0.1] * 20, caa=[0.9] * 3 + [np.nan] * 17, paste=[0.2 + i / 100 for i in range(20)])
    (row,) = gaming({"gain": frame}, ["sae", "caa"], ["paste"], [1] * 20).to_dict("records")
    assert (row["best"], row["stands"], row["pairs"]) == ("sae", "above", 20)


def test_a_verdict_of_a_test_that_could_not_tell_says_so() -> None:
    frame = values(sae=[0.1, 0.2, 0.3, 0.4, 0.5], paste=[0.6, 0.7, 0.8, 0.9, 0.9])
    games = gaming({"gain": frame}, ["sae"], ["paste"], [1] * 5)
    [sentence] = Gaming(games, frame, 0.05).verdict("gain")
    assert sentence == "It cannot tell paste (0.780; 5 pairs, too few for any test) from the best intervention, sae."


def test_a_mean_of_rounding_alone_is_a_plain_zero() -> None:
    frame = values(sae=[0.1 + i / 100 for i in range(20)], none=[-3e-18] * 20)
    games = gaming({"gain": frame}, ["sae"], ["none"], [1] * 20)
    [sentence] = Gaming(games, frame, 0.05).verdict("gain")
    assert sentence == "It puts none (0.000) below the best intervention, sae."


def test_a_composite_is_the_picture_inside_the_masks_alone() -> None:
    picture, base = np.full((2, 2, 3), 9, np.uint8), np.zeros((2, 2, 3), np.uint8)
    region = np.array([[True, False], [False, False]])
    made_up: Any = SimpleNamespace(base=base, region=region)
    assert composite(picture, made_up)[..., 0].tolist() == [[9, 0], [0, 0]]


def test_differences_left_under_the_same_mask() -> None:
    """All of sae's lead was outside the mask, half of steering's."""
    x = RNG.normal(scale=0.01, size=30)
    before = {"gain": values(sae=(x + 0.4).tolist(), steering=(x + 0.3).tolist(), caa=x.tolist())}
    after = {"gain": values(sae=x.tolist(), steering=(x + 0.15).tolist(), caa=[*x[:29], np.nan])}
    categories = dict.fromkeys(before["gain"].index, 1)
    two = differences_left(before, after, ["caa", "sae", "steering", "other"], categories).set_index(["a", "b"])
    assert two.loc[("sae", "caa"), ["before", "after", "gone"]].tolist() == pytest.approx([0.4, 0, 0.4], abs=1e-3)
    assert two.loc[("steering", "caa"), "after"] == pytest.approx(0.15, abs=1e-3)
    assert two.loc[("sae", "steering"), ["before", "after", "gone"]].tolist() == pytest.approx([0.1, -0.15, 0.25])
    assert two.loc[("sae", "caa"), ["apart_before", "apart_after"]].tolist() == [True, False]
    assert two.loc[("steering", "caa"), ["apart_before", "apart_after"]].tolist() == [True, True]
    arms = arms_before_and_after(before, after, categories).set_index("arm")
    assert arms.loc["sae", ["pairs", "before", "after", "change"]].tolist() == pytest.approx(
        [30, x.mean() + 0.4, x.mean(), -0.4]
    )
    assert arms.loc["caa", "pairs"] == 29


def test_pictures_at_a_budget_are_the_weakest_that_have_it() -> None:
    near = [one.model_copy(update={"key": f"{one.key}x", "setting": one.setting.model_copy(update={"strength": 1.01})})
            for one in made({"sae": 0.04, "paste": 0.04}) if one.setting.strength == 1]  # fmt: skip
    table = table_of(group_of(*made({"sae": 0.04, "paste": 0.04}), *near, name="near"))
    chosen = pictures_at(table, 0.05)
    records = pd.concat([arm.records for arm in table.arms]).set_index("key")
    assert len(chosen) == 24
    assert set(records.loc[chosen["key"], "strength"]) == {1.0}
    assert pictures_at(table, 0.07).empty  # between two strengths there is no picture
    scored = chosen.assign(clip_text_edit=0.7, clip_text_original=0.6, lpips_base=0.04, edit_success=1.0, kept=1.0)
    before, after = before_and_after(table, scored)
    base = records.loc[chosen["key"], "clip_text_edit_base"].to_numpy()
    assert after["gain"]["sae"].to_numpy() == pytest.approx(0.7 - base[:12])
    assert after["margin"]["paste"].to_numpy() == pytest.approx(0.1)
    assert before["gain"]["sae"].to_numpy() == pytest.approx(table.at(0.05)["gain"]["sae"].to_numpy())


def test_pictures_at_a_budget_are_of_the_k_that_the_score_is_of() -> None:
    weak, strong = made({"sae": 0.04}), made({"sae": 0.08})
    # With k 3 the LPIPS has the budget at half the strength, and with k 6 CLIP is higher there.
    settings = [(3, 0.5, weak), (6, 1.0, strong)]
    records = [
        one.model_copy(
            update={
                "key": f"{k}{one.key}",
                "setting": one.setting.model_copy(
                    update={"options": {"k": k}, "strength": one.setting.strength * factor}
                ),
            }
        )
        for k, factor, made_with in settings
        for one in made_with
    ]
    chosen = pictures_at(table_of(group_of(*records)), 0.05)
    assert len(chosen) == 12
    assert chosen["key"].str.startswith("6").all()


def test_a_fault_that_turns_the_ranking_round() -> None:
    methods = {"sae": 0.02, "steering": 0.05, "neurons": 0.08}
    mended = table_of(group_of(*made(methods), name="mended"))
    turned = made(dict(zip(methods, reversed(methods.values()), strict=True)))
    other = table_of(group_of(*(one for one in turned if one.pair_id != "p03"), name="faulty"))
    effects = fault_effects(mended, other, "riebench+shares")
    one = effects[effects["score"] == "gain"].set_index("setting")
    assert one["pairs"].tolist() == [11] * 9
    assert one["rank_mended"]["neurons x2"] == one["rank_faulty"]["sae x2"] == 1
    first, second = mended.by_setting("gain").drop("p03"), other.by_setting("gain")
    for setting, row in effects[effects["score"] == "gain"].set_index("setting").iterrows():
        assert row["change"] == pytest.approx((second[setting] - first[setting]).mean())
    summary = fault_summary(effects).set_index("score").loc["gain"]
    own = mended.by_setting("gain").mean()  # also over the pair that the fault loses
    assert summary["rank_correlation"] == pytest.approx(stats.spearmanr(own, second.mean())[0])
    assert summary["largest_change"] == pytest.approx(effects[effects["score"] == "gain"]["change"].abs().max())
    (lost,) = lost_pairs(mended, other, "p").to_dict("records")
    assert [lost[name] for name in ("settings", "scored_mended", "scored_faulty", "lost")] == [9, 9 * 12, 9 * 11, 9]


def test_a_fault_without_effect_changes_nothing() -> None:
    table = table_of(group_of(*made({"sae": 0.02, "steering": 0.05})))
    summary = fault_summary(fault_effects(table, table, "riebench+gelu"))
    assert (summary["changed"] == 0).all()
    assert (summary["in_setting"] == "").all()
    assert summary.set_index("score")["rank_correlation"]["gain"] == pytest.approx(1)


def with_protocol(records: list[Record], name: str) -> list[Record]:
    return [one.model_copy(update={"protocol": name}) for one in records]


def test_records_are_sorted_by_what_they_can_tell(capsys: pytest.CaptureFixture[str]) -> None:
    methods = {"sae": 0.03, "steering": 0.08, "paste": 0.09}
    runs = [write_run(Path("first"), made(methods)), write_run(Path("other-seeds"), made(methods, seed=500))]
    runs.append(write_run(Path("paper"), with_protocol(made(methods), "paper")))
    longer = [one.model_copy(update={"setting": one.setting.model_copy(update={"steps": 4})}) for one in made(methods)]
    runs.append(write_run(Path("longer"), longer))
    evidence = gather(runs)
    assert list(evidence.audited.sources) == ["first"]
    assert [list(group.sources) for group in evidence.reseeded] == [["other-seeds"]]
    assert [(list(a.sources), list(b.sources)) for a, b in evidence.protocols] == [(["first"], ["paper"])]
    assert len(evidence.unused) == 1
    # The same seeds again are no other seeds; other seeds or another CLIP are not another protocol alone.
    renamed = [r.model_copy(update={"conditions": {**r.conditions, "size": 256}}) for r in made(methods)]
    again, moved = (
        write_run(Path("again"), renamed),
        write_run(Path("moved"), with_protocol(made(methods, seed=500), "paper")),
    )
    assert not gather([runs[0], again]).reseeded
    assert not gather([runs[0], moved]).protocols
    other_clip = [
        r.model_copy(update={"parts": {**r.parts, "clip": "other-1"}}) for r in with_protocol(made(methods), "paper")
    ]
    assert not gather([runs[0], write_run(Path("clip"), other_clip)]).protocols
    assert list(gather([runs[1], runs[0]]).audited.sources) == ["other-seeds"]
    found = find(evidence, 0.05)
    assert set(found.left_out) == {"same mask"}
    fewer = write_run(Path("fewer"), [one for one in made(methods, seed=500) if one.pair_id < "p05"])
    part = find(gather([runs[0], fewer]), 0.05)
    (note,) = part.notes
    assert re.match(r"noise:.* 5 pairs", note)
    first = table_of(part.subject.evidence.audited).at(0.05)["gain"]["sae"].iloc[:5].mean()
    other = table_of(part.subject.evidence.reseeded[0]).at(0.05)["gain"]["sae"].mean()
    moved = part.frames["noise"].set_index(["score", "arm"])
    assert moved.loc[("gain", "sae"), "sd_seeds"] == pytest.approx(abs(first - other) / np.sqrt(2))
    assert "keeps pictures" in found.left_out["same mask"]
    said = found.verdicts()
    assert set(said) == {"gain", "margin", "edit_success"}
    assert any("It puts paste" in sentence or "It cannot tell paste" in sentence for sentence in said["gain"])
    assert "4 steps" in found.notes[0] or "steps 4" in found.notes[0]


def test_a_ranking_that_turns_the_truth_round_is_contrary() -> None:
    turned = []
    for one in made({"none": 0.0, "sae": 0.03, "steering": 0.08, "caa": 0.05}):
        metrics = {**one.metrics, "clip_text_edit": 1 - (one.metrics["clip_text_edit"] or 0)}
        tried = (0.1,) if one.setting.strength == 2 else None
        turned.append(one.model_copy(update={"metrics": metrics, "at_lpips": tried}))
    said = find(gather([write_run(Path("turned"), turned)]), 0.05).verdicts()["gain"]
    assert any("over settings is contrary: rank correlation -" in sentence for sentence in said)
    assert any("over methods is contrary: rank correlation -" in sentence for sentence in said)


def test_what_records_cannot_tell_is_left_out_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    """One run of a model whose truth is unknown, without pictures; and hostile names."""
    untold = []
    for one in made({"sae": 0.03, "<b>st|range": 0.08, "paste": 0.09}):
        metrics = {name: value for name, value in one.metrics.items() if name not in ("edit_success", "kept")}
        untold.append(one.model_copy(update={"metrics": metrics}))
    write_run(Path("run"), untold)
    with pytest.raises(SystemExit) as left:
        main(["audit", "run", "--out", "out"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert set(VERDICTS) == set(PARTS)
    for name in (part.name for part in PARTS):
        assert (f"left out: {name}:" in said) == (name not in ("power", "gaming"))
    text, page = Path("out/audit.md").read_text(), Path("out/index.html").read_text()
    assert "Left out: no run has the same pairs with other seeds" in text
    assert "&lt;b&gt;st|range" in page
    assert "<b>st" not in page
    assert 'font: 15px/1.5 system-ui, "Segoe UI"' in page  # a browser drops a rule with an escaped quote
    assert "\\<b\\>st\\|range" in text
    assert "<b>st" not in text
    assert {path.name for path in Path("out").iterdir()} >= {"power.png", "power.csv", "told-apart.csv"}


def test_a_single_run_needs_no_list() -> None:
    write_run(Path("run"), made({"sae": 0.03, "steering": 0.08}, pairs=6))
    of_one, of_list = audit("run", out="one", quiet=True), audit(["run"], out="list", quiet=True)
    assert of_one.findings is not None
    assert of_list.findings is not None
    pd.testing.assert_frame_equal(of_one.findings.frames["power"], of_list.findings.frames["power"])


def test_words_for_correlations() -> None:
    assert [word(c) for c in (0.8, -0.85, 0.497, 0.49, 0.0, -0.49, np.nan)] == [
        "strong", "contrary", "moderate", "weak", "weak", "weak", "undefined",
    ]  # fmt: skip


def test_a_deviation_over_few_runs_may_be_chance() -> None:
    drawn = RNG.normal(size=(4000, 3)).std(1, ddof=1)
    assert (drawn > by_chance(3)).mean() == pytest.approx(0.05, abs=0.012)


def test_protocols_with_one_fault() -> None:
    assert len(ONE_FAULT) == 7
    for name, protocol in ONE_FAULT.items():
        differs = [field for field, value in vars(protocol).items() if value != getattr(RIEBENCH, field)]
        assert len(differs) == 2
        assert "name" in differs
        (fault,) = set(differs) - {"name"}
        assert getattr(protocol, fault) == getattr(PAPER, fault)
        assert PROTOCOLS[name] is protocol
    assert resolve(RunOptions("none", "all", protocol="riebench+shares"))[0].protocol == "riebench+shares"
    with pytest.raises(UserError, match=r"did you mean 'riebench\+brackets'\? known: riebench\+brackets"):
        resolve(RunOptions("none", "all", protocol="riebench+bracket"))
    with pytest.raises(UserError, match=r"known: riebench, paper$"):
        resolve(RunOptions("none", "all", protocol="papers"))


def test_own_runs_are_the_same_pairs_with_other_seeds_and_protocols() -> None:
    runs = {run.name: run for run in own_runs(1, 2, 0.07)}
    assert list(runs) == ["plain", "seed-1", "seed-2", "paper", "fault-riebench", *(f"fault-{n}" for n in ONE_FAULT)]
    plain = runs["plain"]
    assert plain.request.keep_images == len(plain.pairs) == 9
    assert plain.request.at_lpips is not None
    assert plain.request.at_lpips.budgets == (0.02, 0.05, 0.07, 0.1)
    seeds = [[pair.seed for pair in runs[name].pairs] for name in ("plain", "seed-1", "seed-2")]
    assert len({seed for row in seeds for seed in row}) == 27
    for name in ("seed-1", "paper"):
        assert [pair.id for pair in runs[name].pairs] == [pair.id for pair in plain.pairs]
        assert runs[name].request.conditions == plain.request.conditions
    faulty = runs["fault-riebench+only-add"].request
    assert faulty.protocol == "riebench+only-add"
    assert {(c.method, c.options["only_add"]) for c in faulty.conditions} == set(
        product(("steering", "sae", "neurons", "sae-adaptive"), (False, True))
    )


def few_runs(limit: int | None, seeds: int, budget: float) -> list[OwnRun]:
    """Two pairs of a category and three arms in place of an audit's own runs."""
    asked: dict[str, Any] = {"strength": (1, 2), "at_lpips": [budget]}
    methods = ["steering", "sae", "paste", "none"]
    request, pairs = resolve(RunOptions(methods, "all", category=["colour"], limit=limit or 2, keep_images=2, **asked))
    moved = [pair.model_copy(update={"seed": (pair.seed or 0) + 7}) for pair in pairs]
    runs = [OwnRun("plain", request, pairs)]
    runs.append(OwnRun("seed-1", *resolve(RunOptions(methods, "all", pairs=moved, keep_images=0, **asked))))
    for protocol in ("riebench", "riebench+brackets"):
        faulty = resolve(
            RunOptions(
                "steering", "all", category=["colour"], limit=2, protocol=protocol, strength=(1, 2), keep_images=0
            )
        )
        runs.append(OwnRun(f"fault-{protocol}", *faulty))
    return runs


def test_an_audit_of_mini_from_its_runs_to_its_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(auditing, "own_runs", few_runs)
    done = audit(out="a", quiet=True)
    assert done.findings is not None
    assert not done.findings.left_out
    frames = done.findings.frames
    arms = frames["same-mask-arms"].set_index(["score", "arm"])
    assert arms.loc[("gain", "paste"), "change"] == pytest.approx(0, abs=1e-4)  # lies inside the masks as it is
    assert arms.loc[("lpips_base", "steering"), "change"] < 0
    brackets = frames["faults"][frames["faults"]["score"] == "edit_success"]
    assert (brackets["change"] == 0).all()  # of CLIP alone
    assert (frames["faults"][frames["faults"]["score"] == "gain"]["change"] != 0).all()
    names = {path.name for path in Path("a").iterdir()}
    figures = {"noise.png", "power.png", "agreement.png", "same-mask.png", "faults.png"}
    assert names == figures | {f"{name}.csv" for name in frames} | {"audit.md", "index.html", "runs"}
    page = Path("a/index.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert "Verdict: ranking by margin" in page
    text = Path("a/audit.md").read_bytes()

    def undrawn(findings: Findings, folder: Path) -> None:
        for part in findings.parts.values():
            if part.figure_file:
                (folder / part.figure_file).touch()

    monkeypatch.setattr("riebench.audit.audit_files._draw", undrawn)  # the figures were seen above, and take long

    # The same again makes nothing; half a run lost is made again, with the same numbers.
    records = Path("a/runs/seed-1/records.jsonl")
    lines = records.read_text().splitlines(keepends=True)
    gone = json.loads(lines[-1])["pair_id"]
    records.write_text("".join(line for line in lines if json.loads(line).get("pair_id") != gone))
    made_again: list[tuple[str, int]] = []
    carry_out = auditing.carry_out

    def counted(request: Any, pairs: Any, options: RunOptions) -> Any:
        session = carry_out(request, pairs, options)
        made_again.append((session.folder.name, session.pairs))
        return session

    monkeypatch.setattr(auditing, "carry_out", counted)
    audit(out="a", quiet=True)
    assert made_again == [("plain", 0), ("seed-1", 1), ("fault-riebench", 0), ("fault-riebench+brackets", 0)]
    assert Path("a/audit.md").read_bytes() == text

    # A run that went on with fewer pairs still knows all that it has pictures of.
    monkeypatch.setattr(auditing, "own_runs", lambda *_: few_runs(1, 1, 0.05)[:1])
    audit(out="a", quiet=True)

    # Its run given by name: what one run alone can tell; files of an earlier audit do not stay.
    Path("b").mkdir()
    Path("b/noise.csv").write_text("score")
    found = audit(["a/runs/plain"], out="b", quiet=True).findings
    assert isinstance(found, Findings)
    assert set(found.left_out) == {"noise", "faults"}
    assert not Path("b/noise.csv").exists()
    pd.testing.assert_frame_equal(found.frames["gaming"], frames["gaming"])
    for path in Path("a/runs/plain/images").glob("*-base.png"):
        path.unlink()
    found = audit(["a/runs/plain"], out="b", quiet=True).findings
    assert isinstance(found, Findings)
    assert "no picture at LPIPS 0.05 is kept" in found.left_out["same mask"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["audit"], ["--out"]),
        (["audit", "nowhere", "--out", "o"], ["nowhere does not exist", "folder of a finished run"]),
        (["audit", "zeroed", "--out", "o"], ["zeroed holds an ablation (ablation.json), not a run", "finished run"]),
        (["audit", "run", "--out", "run"], ["--out run", "give another folder"]),
        (["audit", "run", "--out", "file"], ["--out file is a file", "give a folder"]),
        (["audit", "run", "--out", "o", "--budget", "0"], ["--budget is 0", "expected an LPIPS above 0", "0.05"]),
        (["audit", "run", "--out", "o", "--budget", "0.9"], ["of 2 arms, 0 reach LPIPS 0.9", "--budget"]),
        (["audit", "run", "--out", "o", "--seeds", "1"], ["--limit", "--seeds", "--workers"]),
        (["audit", "run/records.jsonl", "--out", "run"], ["--out run", "give another folder"]),
        (["audit", "run", "--out", "o", "--budgets", "0.1"], ["--budgets"]),
        (["audit", "run", "--out", "/proc/nowhere"], ["/proc/nowhere cannot be written", "--out"]),
        (["audit", "--out", "o", "--limit", "0"], ["--limit"]),
    ],
)
def test_bad_input_is_one_line(words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    write_run(Path("run"), made({"sae": 0.03, "steering": 0.08}, pairs=6))
    Path("file").write_text("")
    Path("zeroed").mkdir()
    Path("zeroed/ablation.json").write_text("{}")
    Path("zeroed/records.jsonl").write_text('{"prompt": "a red heart"}\n')
    with pytest.raises(SystemExit) as left:
        main(words)
    error = capsys.readouterr().err
    assert left.value.code == 2
    for part in parts:
        assert part in error
    assert "Traceback" not in error

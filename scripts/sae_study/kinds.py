"""The part of the study on kinds: SAEs steered to one L0, judged by the truth, beside frozen and random decoders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from commands import run_all
from matplotlib import pyplot as plt
from scored import SCORES
from tables import cells

from riebench.features.score_files import read_scores
from riebench.features.scores.estimate import mean_estimate
from riebench.models.sdxl import FOUR
from riebench.report.arms import arms_of
from riebench.report.frame import load_records
from riebench.report.matching import cross
from riebench.report.style import FIXED, PAPER
from riebench.report.texttable import DASH, TextTable, interval, latex_table, markdown_table, write_csv
from riebench.settings.lpips_search import WITHIN
from riebench.stats.resample import Bootstrap
from riebench.training.training_log import last_lines
from riebench.training.training_plan import KINDS

L0 = 10
MOVED = (48,)
"""Features that the method moves in each direction: the last published share, with which TopK was told apart best."""
AT = 0.05
"""LPIPS at which pictures are compared, as in results/mini."""
TRAINED, FROZEN, RANDOM = "trained", "frozen", "random"
OF_SAES = ("l0", "explained_variance", "dead", "coverage", "f1_over_90", "on_gain_best", "on_kept_best", "clip_best")
OF_RUNS = ("edit_success", "gain", "kept")
NAMES = SCORES | {"l0": "L0"}


@dataclass(frozen=True)
class Size:
    """How much is done; the names are those of :class:`grids.Size`, with the sites that are edited together."""

    sites: tuple[str, ...] = FOUR
    prompts: int = 800
    steps: int = 700
    judged: int = 100
    switched: int = 5
    pairs: int = 5


SMALL = Size(prompts=60, steps=20, judged=20, switched=1, pairs=1)


def study_kinds(work: Path, out: Path, size: Size, draw: bool) -> None:
    """Run what is missing below ``work / "kinds"``, then write tables and a figure of what is there."""
    work = work / "kinds"
    work.mkdir(parents=True, exist_ok=True)
    stages = {"collect": _collect, "train": _train, "benchmark": _benchmark, "judge": _judge}
    for name, commands in () if draw else stages.items():
        print(f"kinds, {name}: {run_all(name, commands(work, size), work / 'log.txt'):.0f} s", flush=True)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    trained, saes, (runs, categories) = read_trained(work, size.sites), read_saes(work, size.sites), read_runs(work)
    told = separations(runs, categories)
    write_csv(trained, out / "kinds-trained.csv")
    tables = {"kinds-trained": _trained_table(trained)}
    if len(saes):
        write_csv(saes, out / "kinds.csv")
        tables |= {"kinds": _table(saes), "kinds-differences": _differences(saes)}
    if len(told):
        write_csv(runs.reset_index(names="pair_id"), out / "kinds-riebench.csv")
        tables |= {"kinds-riebench": _runs_table(told)}
    for name, table in tables.items():
        (out / f"{name}.tex").write_text(latex_table(table, table.title), encoding="utf-8")
    text = "\n".join(f"### {table.title}\n\n{markdown_table(table)}" for table in tables.values())
    (out / "kinds.md").write_text(text, encoding="utf-8")
    if set(KINDS) <= set(saes["kind"]) and len(told):
        _draw(saes, told, out / "figures" / "kinds.png")


def _collect(work: Path, size: Size) -> list[list[str]]:
    return [["sae", "collect", "--prompts", "grammar", "--count", str(size.prompts), "--out", str(work / "values")]]


def _train(work: Path, size: Size) -> list[list[str]]:
    words = ["--kind", ",".join(KINDS), "--k", str(L0), "--decoder", "trained,frozen", "--aux", "off"]
    words += ["--batch", "512", "--steps", str(size.steps)]
    train = ["sae", "train", str(work / "values")]
    return [[*train, "--site", site, "--out", str(work / "saes" / site), *words] for site in size.sites]


def _folders(work: Path, sites: Sequence[str]) -> Iterator[tuple[str, str, Path]]:
    """Kind and decoder, site, and folder of each SAE."""
    for path in (path for site in sites for path in sorted((work / "saes" / site).glob("*/config.json"))):
        facts = json.loads(path.read_text())
        name = f"{facts.get('kind', 'topk')}-{FROZEN if facts['frozen'] else TRAINED}"
        yield name, facts["site"], path.parent


def _benchmark(work: Path, size: Size) -> list[list[str]]:
    """RIEBench with the SAEs of a kind at the sites together, and with random ones of the same k."""
    for name, site, folder in _folders(work, size.sites):
        link = work / "sets" / name / site
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(folder.resolve(), target_is_directory=True)
    words = [word for site in size.sites for word in ("--block", site)]
    words += ["--at-lpips", str(AT), "--limit", str(size.pairs), "--keep-images", "0"]
    words += ["--k", ",".join(map(str, MOVED))]
    runs = {name: "sae" for name, _, _ in _folders(work, size.sites)} | {RANDOM: "sae-random"}
    folders = {name: work / "sets" / (f"topk-{TRAINED}" if name == RANDOM else name) for name in runs}
    return [
        ["run", "--method", runs[name], *words, "--set", f"sae.folder={folder}", "--out", str(work / "bench" / name)]
        for name, folder in folders.items()
    ]


def _judge(work: Path, size: Size) -> list[list[str]]:
    few = str(size.switched)
    options = ["--count", str(size.judged), "--features", few, "--best", few, "--downstream", "2"]
    options += ["--baseline", "random"]
    by_site = {
        site: [str(folder) for _, where, folder in _folders(work, size.sites) if where == site] for site in size.sites
    }
    return [["sae", "score", *by_site[site], "--out", str(work / "scores" / site), *options] for site in size.sites]


def read_trained(work: Path, sites: Sequence[str]) -> pd.DataFrame:
    """A row for each SAE: kind, decoder, site, weight of the penalty, and what the last batch of its training says."""
    lines = {site: last_lines(work / "saes" / site) for site in sites}
    rows = []
    for name, site, folder in _folders(work, sites):
        config, line = json.loads((folder / "config.json").read_text()), lines[site][folder.name]
        row = dict(zip(("kind", "decoder"), name.split("-"), strict=True)) | {"site": site}
        row |= {"weight": config.get("l1", config.get("l0")), "l0": line["l0"], "explained_variance": line["explained"]}
        rows.append(row)
    return _in_order(rows)


def _in_order(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows with decoder, kind and site as a frame, by these; empty without rows."""
    order = {word: number for number, word in enumerate((*KINDS, TRAINED, FROZEN, RANDOM))}
    frame = pd.DataFrame(rows, columns=None if rows else ["decoder", "kind", "site"])
    frame = frame.assign(_decoder=frame["decoder"].map(order), _kind=frame["kind"].map(order))
    return frame.sort_values(["_decoder", "_kind", "site"]).drop(columns=["_decoder", "_kind"])


def read_saes(work: Path, sites: Sequence[str]) -> pd.DataFrame:
    """A row for each judged SAE: kind and decoder, site, weight of the penalty, scores.

    Of the random dictionaries, that with as many active features as a TopK SAE.
    """
    names = {folder.name: (name, folder) for name, _, folder in _folders(work, sites)}
    rows = []
    for path in (path for site in sites for path in sorted((work / "scores" / site).glob("*.json"))):
        facts = read_scores(path)
        if facts is None or (facts["kind"] == RANDOM and facts["config"].get("k") != L0):
            continue
        name, folder = names.get(facts["name"], (f"{RANDOM}-{RANDOM}", None))
        config = {} if folder is None else json.loads((folder / "config.json").read_text())
        row = dict(zip(("kind", "decoder"), name.split("-"), strict=True)) | {"site": facts["block"]}
        row |= {"weight": config.get("l1", config.get("l0"))}
        rows.append(row | {score: (facts["summary"].get(score) or {}).get("value") for score in OF_SAES})
    return _in_order(rows)


def read_runs(work: Path) -> tuple[pd.DataFrame, Sequence[int]]:
    """Scores of each pair (rows) at the LPIPS with each set of SAEs (``kind-decoder k score``), and the categories."""
    columns: dict[str, pd.Series] = {}
    by_pair: dict[str, int] = {}
    for run in sorted(path.parent for path in (work / "bench").glob("*/records.jsonl")):
        pairs, (arm,) = arms_of(load_records(run))
        by_pair |= dict(zip(pairs.ids, pairs.categories.tolist(), strict=True))
        for place, k in enumerate(arm.ks):
            crossing = cross(arm.along("lpips_base", place), np.array([AT]), WITHIN)
            for score in OF_RUNS:
                read = crossing.read(arm.along(score, place))[:, 0]
                columns[f"{run.name} {k:g} {score}"] = pd.Series(read, pairs.ids)
    frame = pd.DataFrame(columns)
    return frame, [by_pair[pair] for pair in frame.index]


def separations(runs: pd.DataFrame, categories: Sequence[int]) -> pd.DataFrame:
    """Of each kind, k and score the mean, and what a trained decoder gains, as mean with interval and pairs.

    Columns ``frozen`` and ``random`` are against the other decoder of the same kind and against random TopK SAEs,
    ``than topk`` says how much more that against the frozen one is than with TopK.
    """
    boot, rows = Bootstrap(list(categories)), []
    for k in MOVED:
        for score in OF_RUNS:
            values = {name.split(" ")[0]: runs[name] for name in runs if name.endswith(f" {k} {score}")}
            kinds = [kind for kind in KINDS if {f"{kind}-{TRAINED}", f"{kind}-{FROZEN}"} <= values.keys()]
            gained = {kind: values[f"{kind}-{TRAINED}"] - values[f"{kind}-{FROZEN}"] for kind in kinds}
            unknown = pd.Series(np.nan, runs.index)
            for kind in kinds:
                compared = {
                    TRAINED: values[f"{kind}-{TRAINED}"],
                    FROZEN: gained[kind],
                    RANDOM: values[f"{kind}-{TRAINED}"] - values.get(RANDOM, unknown),
                    "than topk": gained[kind] - gained.get("topk", unknown),
                }
                means = boot.means(np.stack([column.to_numpy(float) for column in compared.values()], 1))
                row: dict[str, object] = {"kind": kind, "k": k, "score": score}
                for place, name in enumerate(compared):
                    row[name] = (means.mean[place], means.low[place], means.high[place], int(means.count[place]))
                rows.append(row)
    return pd.DataFrame(rows)


def _trained_table(trained: pd.DataFrame) -> TextTable:
    """Of each site the L0 and the explained variance, with both decoders."""
    rows = []
    for (site, kind), part in trained.groupby(["site", "kind"], sort=False):
        by_decoder = part.set_index("decoder").reindex([TRAINED, FROZEN])
        columns = (("weight", ".3g"), ("l0", ".1f"), ("explained_variance", ".3f"))
        cells_of = [format(value, form) for name, form in columns for value in by_decoder[name]]
        rows.append([site, kind, *(DASH if cell == "nan" else cell for cell in cells_of)])
    heads = [f"{name}, {decoder}" for name in ("weight", "L0", "explained variance") for decoder in (TRAINED, FROZEN)]
    title = f"Kinds of SAEs steered to an L0 of {L0}, trained and frozen decoders: the last batch of their training."
    return TextTable(title, ["site", "kind", *heads], rows, left=2)


def _table(saes: pd.DataFrame) -> TextTable:
    rows = []
    for (decoder, kind), part in saes.groupby(["decoder", "kind"], sort=False):
        estimates = [mean_estimate(part[score].to_numpy(float)) for score in OF_SAES]
        weights = part["weight"].dropna()
        weight = f"{weights.min():.3g} to {weights.max():.3g}" if len(weights) else DASH
        rows.append([decoder, kind, weight, *cells(estimates)])
    title = f"Kinds of SAEs steered to an L0 of {L0}: means over sites, with intervals over these."
    return TextTable(title, ["decoder", "kind", "weight of the penalty", *(NAMES[s] for s in OF_SAES)], rows, left=3)


def _differences(saes: pd.DataFrame) -> TextTable:
    """Each kind minus TopK, and each trained decoder minus the frozen one of its kind."""
    at = {key: part.set_index("site")[list(OF_SAES)] for key, part in saes.groupby(["decoder", "kind"])}
    rows = []
    for heading, one, other in (
        *((f"{kind} minus topk", (TRAINED, kind), (TRAINED, "topk")) for kind in KINDS if kind != "topk"),
        *((f"{kind}, trained minus frozen", (TRAINED, kind), (FROZEN, kind)) for kind in KINDS),
    ):
        if not {one, other} <= at.keys():
            continue
        difference = at[one] - at[other]
        rows.append([heading, *cells([mean_estimate(difference[score].to_numpy(float)) for score in OF_SAES])])
    title = "Kinds minus TopK, and trained minus frozen decoders, at the same site; intervals over sites."
    return TextTable(title, ["", *(NAMES[score] for score in OF_SAES)], rows)


def _runs_table(told: pd.DataFrame) -> TextTable:
    heads = {FROZEN: "minus frozen", RANDOM: "minus random", "than topk": "minus frozen, more than topk"}
    rows = []
    for _, row in told[told["score"] != "kept"].iterrows():
        shown = [DASH if row["kind"] == "topk" and name == "than topk" else _shown(row[name]) for name in heads]
        rows.append([row["score"], f"{row['k']:g}", row["kind"], f"{row[TRAINED][3]}", _shown(row[TRAINED]), *shown])
    title = (
        f"RIEBench with the SAEs of these sites together, LPIPS {AT}: trained decoders, and what they gain over "
        "untrained ones on the same pairs; intervals over pairs."
    )
    return TextTable(title, ["score", "k", "kind", "pairs", TRAINED, *heads.values()], rows, left=3)


def _shown(entry: tuple[float, float, float, int]) -> str:
    return DASH if np.isnan(entry[0]) else interval(*entry[:3])


def _draw(saes: pd.DataFrame, told: pd.DataFrame, path: Path) -> None:
    """Scores of each kind with both decoders, small points for sites; and how far edits tell the two apart."""
    scores = ("explained_variance", "coverage", "on_gain_best")
    looks: Mapping[str, tuple[str, str]] = {TRAINED: ("o", FIXED["sae"]), FROZEN: ("s", "#009E73")}
    with plt.rc_context(PAPER):
        figure, grid = plt.subplots(1, 4, figsize=(7.2, 2.6), layout="constrained", sharey=True)
        for axes, score in zip(grid, scores, strict=False):
            for number, (decoder, (marker, colour)) in enumerate(looks.items()):
                for place, kind in enumerate(KINDS):
                    part = saes[(saes["decoder"] == decoder) & (saes["kind"] == kind)][score].to_numpy(float)
                    at = place + 0.3 * (number - 0.5)
                    axes.plot(part, np.full(len(part), at), marker, ms=2, color=colour, alpha=0.5)
                    label = f"{decoder} decoder" if place == 0 else None
                    axes.plot(part.mean(), at, marker, ms=6, color=colour, label=label)
            axes.set_title(NAMES[score])
        for number, (k, colour) in enumerate(zip(MOVED, ("#0072B2", "#CC79A7"), strict=False)):
            part = told[(told["k"] == k) & (told["score"] == "edit_success")]
            middle, low, high = (np.array([entry[i] for entry in part[FROZEN]], float) for i in range(3))
            at = np.arange(len(middle)) + 0.3 * (number - 0.5)
            reach = np.nan_to_num([middle - low, high - middle])
            grid[3].errorbar(middle, at, xerr=reach, fmt="D", ms=4, lw=1.2, color=colour, label=f"k {k}")
        grid[3].axvline(0, color="black", lw=0.6)
        grid[3].set_title("edit_success,\ntrained minus frozen")
        grid[0].set_yticks(range(len(KINDS)), KINDS)
        grid[0].invert_yaxis()
        handles = [handle for axes in (grid[0], grid[3]) for handle in axes.get_legend_handles_labels()[0]]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        figure.savefig(path, bbox_inches="tight")
        plt.close(figure)

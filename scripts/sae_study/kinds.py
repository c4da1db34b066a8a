"""The part of the study on kinds of SAEs: trained at one L0, judged by the truth, beside untrained decoders."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from commands import run_all
from grids import BUDGET
from matplotlib import pyplot as plt
from scored import SCORES

from riebench.features.score_files import read_scores
from riebench.report.style import PAPER
from riebench.report.texttable import DASH, TextTable, interval, latex_table, markdown_table, write_csv
from riebench.training.training_log import last_lines
from riebench.training.training_plan import KINDS

SITES = ("up.0.0",)
"""The site whose single features act most on mini."""
L0 = 10
WEIGHTS = ("--l1", "0.5,1.2", "--l0", "0.01,0.02")
"""Of these the SAE whose L0 is nearest to :data:`L0` stands for its kind."""
DECODERS = {False: "trained", True: "frozen"}
SHOWN = ("explained_variance", "dead", "coverage", "f1_over_90", "on_gain_best", "on_kept_best", "clip_best")
SIZES = {
    False: {"prompts": 600, "steps": 300, "judged": 120, "switched": 6, "pairs": 3},
    True: {"prompts": 60, "steps": 20, "judged": 20, "switched": 1, "pairs": 1},
}
"""Whether it is only tried out to how much is done."""


def study_kinds(work: Path, out: Path, small: bool, draw: bool) -> None:
    """Run what is missing below ``work / "kinds"``, then write tables and a figure."""
    work, size = work / "kinds", SIZES[small]
    work.mkdir(parents=True, exist_ok=True)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    stages = {
        "collect": lambda: [_collect(work, size)],
        "train": lambda: _train(work, size),
        "judge": lambda: _judge(work, size),
        "benchmark": lambda: _benchmark(work, size),
        "report": lambda: [_report(work)],
    }
    for name, commands in () if draw else stages.items():
        print(f"kinds, {name}: {run_all(name, commands(), work / 'log.txt'):.0f} s", flush=True)
    saes, runs = _saes(work), _runs(work)
    write_csv(saes, out / "kinds.csv")
    write_csv(runs, out / "kinds-riebench.csv")
    tables = {"kinds": _table(saes), "kinds-riebench": _runs_table(runs)}
    for name, table in tables.items():
        (out / f"{name}.tex").write_text(latex_table(table, table.title), encoding="utf-8")
    text = "\n".join(f"### {table.title}\n\n{markdown_table(table)}" for table in tables.values())
    (out / "kinds.md").write_text(text, encoding="utf-8")
    _draw(saes, out / "figures" / "kinds.png")


def _collect(work: Path, size: dict[str, int]) -> list[str]:
    sites = [word for site in SITES for word in ("--site", site)]
    return [
        "sae",
        "collect",
        *sites,
        "--prompts",
        "grammar",
        "--count",
        str(size["prompts"]),
        "--out",
        f"{work}/values",
    ]


def _train(work: Path, size: dict[str, int]) -> list[list[str]]:
    words = ["--kind", ",".join(KINDS), "--k", str(L0), *WEIGHTS, "--decoder", "trained,frozen"]
    words += ["--batch", "512", "--steps", str(size["steps"])]
    train = ["sae", "train", f"{work}/values"]
    return [[*train, "--site", site, "--out", f"{work}/saes/{site}", *words] for site in SITES]


def _chosen(work: Path) -> Iterator[tuple[str, str, Path]]:
    """The name of a set of SAEs, of one kind and decoder, with a site and the SAE that stands for it there."""
    for site in SITES:
        lines = last_lines(work / "saes" / site)
        facts = {
            path.parent: json.loads(path.read_text()) for path in sorted((work / "saes" / site).glob("*/config.json"))
        }
        for kind in KINDS:
            for frozen, decoder in DECODERS.items():
                alike = [f for f, own in facts.items() if (own.get("kind", "topk"), own["frozen"]) == (kind, frozen)]
                yield f"{kind}-{decoder}", site, min(alike, key=lambda f: abs(math.log(lines[f.name]["l0"] / L0)))


def _judge(work: Path, size: dict[str, int]) -> list[list[str]]:
    few = str(size["switched"])
    options = ["--count", str(size["judged"]), "--features", few, "--best", few, "--downstream", "2"]
    options += ["--baseline", "channels"]
    chosen = list(_chosen(work))
    return [
        [
            "sae",
            "score",
            *(str(f) for _, place, f in chosen if place == site),
            "--out",
            f"{work}/scores/{site}",
            *options,
        ]
        for site in SITES
    ]


def _benchmark(work: Path, size: dict[str, int]) -> list[list[str]]:
    """RIEBench with the SAEs of a kind at all sites together."""
    names = []
    for name, site, folder in _chosen(work):
        link = work / "sets" / name / site
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(folder.resolve(), target_is_directory=True)
        names.append(name)
    blocks = [word for site in SITES for word in ("--block", site)]
    words = ["run", "--method", "sae", *blocks, "--strength", "1,2,4", "--limit", str(size["pairs"])]
    words += ["--keep-images", "0"]
    return [
        [*words, "--set", f"sae.folder={work}/sets/{name}", "--out", f"{work}/bench/{name}"]
        for name in dict.fromkeys(names)
    ]


def _report(work: Path) -> list[str]:
    """One leaderboard of all runs, whose comparisons are over the pairs of both."""
    runs = [str(path) for path in sorted((work / "bench").iterdir())]
    budget = ["--budget", BUDGET, "--rank-at", BUDGET, "--rank-by", "edit_success", "--no-figures", "--no-page"]
    return ["report", *runs, "--out", f"{work}/board", *budget]


def _saes(work: Path) -> pd.DataFrame:
    """A row for each judged SAE and random dictionary, with the intervals of its scores."""
    names = {folder.name: name for name, _, folder in _chosen(work)}
    rows = []
    for path in sorted((work / "scores").glob("*/*.json")):
        facts = read_scores(path)
        if facts is None:
            continue
        row: dict[str, Any] = {"site": facts["block"], "kind": names.get(facts["name"], facts["kind"])}
        for name in ("l0", *SHOWN):
            estimate = facts["summary"].get(name) or {}
            row |= {
                name: estimate.get("value"),
                f"{name}_low": estimate.get("low"),
                f"{name}_high": estimate.get("high"),
            }
        rows.append({**row, "name": facts["name"]})
    order = {f"{kind}-{decoder}": number for decoder in DECODERS.values() for number, kind in enumerate(KINDS)}
    frame = pd.DataFrame(rows)
    trained = frame["kind"].str.endswith("-trained")
    return (
        frame.assign(_order=frame["kind"].map(order).fillna(99), _trained=~trained)
        .sort_values(["site", "_trained", "_order", "name"])
        .drop(columns=["_order", "_trained"])
    )


def _runs(work: Path) -> pd.DataFrame:
    """A row for each kind: its leaderboard's scores with trained and frozen decoders, and their difference."""
    board = pd.read_csv(work / "board" / "leaderboard.csv")
    board = board[board["category"] == "all"].set_index("method")
    comparisons = pd.read_csv(work / "board" / "comparisons.csv")
    sides = comparisons[["a", "b"]].apply(lambda column: column.str.extract(r"\[(.*?)\]", expand=False))
    rows = []
    for kind in KINDS:
        trained, frozen = (f"{kind}-{decoder}" for decoder in DECODERS.values())
        row: dict[str, Any] = {"kind": kind}
        for name, decoder in ((trained, "trained"), (frozen, "frozen")):
            of_run = board.loc[f"sae [{name}]"]
            row |= {f"{score}_{decoder}": of_run.get(score) for score in ("gain", "edit_success", "kept")}
        for one, other, sign in ((trained, frozen, 1), (frozen, trained, -1)):
            for _, pair in comparisons[(sides["a"] == one) & (sides["b"] == other)].iterrows():
                ends = sorted(sign * pair[name] for name in ("low", "high"))
                row |= {
                    "pairs": pair["pairs"],
                    "difference": sign * pair["difference"],
                    "low": ends[0],
                    "high": ends[1],
                }
        rows.append(row)
    return pd.DataFrame(rows)


def _table(saes: pd.DataFrame) -> TextTable:
    shown = {name: SCORES[name] for name in SHOWN}
    rows = []
    for _, row in saes.iterrows():
        cells = [_cell(row, name) for name in shown]
        rows.append([row["site"], row["kind"].replace("-", ", "), f"{row['l0']:.1f}", *cells])
    title = f"Kinds of SAEs near an L0 of {L0}; intervals over features or pictures of one SAE."
    return TextTable(title, ["site", "kind, decoder", "L0", *shown.values()], rows, left=2)


def _cell(row: pd.Series, name: str) -> str:
    if pd.isna(row[name]):
        return DASH
    ends = (None if pd.isna(row[f"{name}_{end}"]) else row[f"{name}_{end}"] for end in ("low", "high"))
    return interval(row[name], *ends)


def _runs_table(runs: pd.DataFrame) -> TextTable:
    rows = [
        [
            row["kind"],
            *(
                f"{row[f'{score}_{decoder}']:.3f}"
                for score in ("gain", "edit_success")
                for decoder in DECODERS.values()
            ),
            DASH if pd.isna(row.get("difference")) else interval(row["difference"], row["low"], row["high"]),
            DASH if pd.isna(row.get("pairs")) else f"{row['pairs']:.0f}",
        ]
        for _, row in runs.iterrows()
    ]
    heads = [f"{score}, {decoder}" for score in ("gain", "edit_success") for decoder in DECODERS.values()]
    title = f"RIEBench with the SAEs at LPIPS {BUDGET}; differences over the pairs of both."
    return TextTable(title, ["kind", *heads, "edit_success, trained minus frozen", "pairs"], rows)


def _draw(saes: pd.DataFrame, path: Path) -> None:
    """Explained variance, detection and causality of each kind, by site."""
    scores, looks = ("explained_variance", "coverage", "on_gain_best"), {"trained": "o", "frozen": "s"}
    with plt.rc_context(PAPER):
        figure, grid = plt.subplots(
            len(SITES),
            len(scores),
            figsize=(7.2, 0.4 + 1.8 * len(SITES)),
            layout="constrained",
            sharey=True,
            squeeze=False,
        )
        for site, line in zip(SITES, grid, strict=True):
            for score, axes in zip(scores, line, strict=True):
                for number, (decoder, marker) in enumerate(looks.items()):
                    part = saes[(saes["site"] == site) & saes["kind"].str.endswith(f"-{decoder}")]
                    at = [KINDS.index(kind.split("-")[0]) + 0.16 * (2 * number - 1) for kind in part["kind"]]
                    middle = part[score].to_numpy(float)
                    low, high = (part[f"{score}_{end}"].fillna(part[score]).to_numpy(float) for end in ("low", "high"))
                    axes.errorbar(
                        middle,
                        at,
                        xerr=[middle - low, high - middle],
                        fmt=marker,
                        ms=4,
                        lw=1.2,
                        label=f"{decoder} decoder",
                    )
                axes.set_yticks(range(len(KINDS)), KINDS)
                axes.set_title(f"{site}: {SCORES[score]}")
        grid[0, 0].invert_yaxis()
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        figure.savefig(path, bbox_inches="tight")
        plt.close(figure)

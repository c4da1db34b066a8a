"""Put the leaderboard of all blocks together, in short, between the README's markers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd

from riebench.report.tables import with_interval

COLUMNS = {"gain": "CLIP gain", "edit_success": "edit_success", "kept": "kept"}


def main(board: Path, readme: Path) -> None:
    """Write the table of ``leaderboard.csv`` into a README."""
    rows = pd.read_csv(board)
    rows = rows[
        (rows["category"] == "all") & (rows["blocks"].str.contains("+", regex=False) | (rows["blocks"] == "any"))
    ]
    head = ["rank", "group", "method", "pairs", *COLUMNS.values()]
    lines = ["| " + " | ".join(head) + " |", "| --- | --- | --- | ---: | ---: | ---: | ---: |"]
    for _, row in rows.iterrows():
        words = ["–" if pd.isna(row["rank"]) else f"{row['rank']:.0f}", "" if pd.isna(row["group"]) else row["group"]]
        words += [
            f"{row['method']} †" if row["acts"] == "outside" else row["method"],
            f"{row['gain_pairs']}/{row['attempted']}",
            *(with_interval(row, name) for name in COLUMNS),
        ]
        lines.append("| " + " | ".join(map(str, words)) + " |")
    said = (
        f"{rows['attempted'].max()} pairs; the column pairs says how many of them reach that LPIPS. "
        "Ranks count the rows of single blocks, too. †: changes nothing inside the denoiser."
    )
    block = f"<!-- results -->\n{said}\n\n" + "\n".join(lines) + "\n<!-- end of results -->"
    text = readme.read_text()
    readme.write_text(re.sub(r"<!-- results -->.*<!-- end of results -->", lambda _: block, text, flags=re.S))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

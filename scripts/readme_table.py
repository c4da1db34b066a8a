"""Write the ranked rows of all blocks together between the results markers of the README."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd

from riebench.report.tables import with_interval

COLUMNS = {"gain": "CLIP gain", "edit_success": "edit_success", "kept": "kept"}


def main(board: Path, readme: Path) -> None:
    """Write the table of the file ``board`` (``leaderboard.csv``) into a README."""
    rows = pd.read_csv(board)
    blocks = rows["blocks"]
    together = blocks.str.contains("+", regex=False) | (blocks == "any")
    rows = rows[(rows["category"] == "all") & together & rows["rank"].notna()]
    head = ["rank", "group", "method", "pairs", *COLUMNS.values()]
    lines = ["| " + " | ".join(head) + " |", "| --- | --- | --- | ---: | ---: | ---: | ---: |"]
    for _, row in rows.iterrows():
        words = [
            f"{row['rank']:.0f}",
            row["group"],
            f"{row['method']} †" if row["acts"] == "outside" else row["method"],
            f"{row['gain_pairs']}/{row['attempted']}",
            *(with_interval(row, name) for name in COLUMNS),
        ]
        lines.append("| " + " | ".join(map(str, words)) + " |")
    caption = (
        f"{rows['attempted'].max()} pairs; the column pairs says how many of them reach that LPIPS. "
        "Ranks also count rows of single blocks. †: changes nothing inside the denoiser."
    )
    block = f"<!-- results -->\n{caption}\n\n" + "\n".join(lines) + "\n<!-- end of results -->"
    text = readme.read_text()
    readme.write_text(re.sub(r"<!-- results -->.*<!-- end of results -->", lambda _: block, text, flags=re.S))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

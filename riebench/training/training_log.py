"""The log of a training, one JSON line for each SAE now and then, its figure, and who is told. Needs no torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from riebench.report.style import DASHES, METADATA, PAPER
from riebench.util.errors import UserError
from riebench.util.files import write_whole
from riebench.util.json_lines import append_lines, joined_lines, parse_lines, read_content
from riebench.util.work_folder import full_disk

log = logging.getLogger(__name__)
LOG = "log.jsonl"
MEASURED = ("explained", "l0", "dead")
NEAR = 1.2
"""The ratio of the number of active features to the wanted one that needs no warning."""
TENSORBOARD = "tensorboard"
Callback = Callable[[str, int, Mapping[str, float]], None]
"""Is told the name of an SAE, the step, and the measures of a line of the log."""
FIGURE = "learning.png"
PANELS = {"explained": "explained variance", "auxiliary": "auxiliary loss", "dead": "share of dead features"}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255")
SCREEN = 130  # dots per inch


class TrainingLog:
    """Lines in ``log.jsonl``.

    Args:
        folder: that holds it.
        step: where training goes on; lines of later steps, which a killed process wrote, are removed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / LOG
        kept = [json.dumps(line) for line in read_log(folder) if line["step"] <= step]
        write_whole(self.path, joined_lines(kept))
        self._waiting: list[str] = []

    def add(self, sae: str, step: int, vectors: int, measured: Mapping[str, float]) -> None:
        """Add a line; it is written with the next :meth:`flush`."""
        self._waiting.append(json.dumps({"sae": sae, "step": step, "vectors": vectors, **measured}))
        if len(self._waiting) >= 100:
            self.flush()

    def flush(self) -> None:
        """Write the lines that wait.

        Raises:
            UserError: if they cannot be written.
        """
        with full_disk(self.path):
            append_lines(self.path, self._waiting)
        self._waiting.clear()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a log; a torn last line is left out with a warning, and a folder without a log has none.

    Raises:
        UserError: if a line is damaged that was written whole.
    """
    path = folder / LOG
    try:
        content = read_content(path)
    except FileNotFoundError:
        return []
    lines = parse_lines(content, _parsed, path)
    if lines.torn.endswith(b"\n") and lines.torn.strip():  # a process that is killed leaves no end of the line
        raise UserError(f"{path}: line {len(lines.values) + 1}, the last, is damaged; restore the file")
    if lines.torn.strip():
        log.warning("the torn last line of %s is left out", path)
    return lines.values


def _parsed(line: bytes) -> dict[str, Any]:
    values = json.loads(line)
    if not isinstance(values, dict) or not {"sae", "step", "vectors", *MEASURED} <= values.keys():
        raise ValueError("no line of a training's log")
    return values


def last_lines(folder: Path) -> dict[str, dict[str, Any]]:
    """The last line of each SAE in the log of a training, by the name of the SAE."""
    return {line["sae"]: line for line in read_log(folder)}


def warn_of_poor_saes(lines: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, int]) -> None:
    """Warn of SAEs whose last line says that they learnt nothing, or have not as many active features as wanted.

    Args:
        lines: name of each SAE to its last line.
        wanted: name to the number of active features, of SAEs whose penalty is steered to it.
    """
    for name, line in lines.items():
        if line["explained"] < 0:
            reason = f"explained variance is {line['explained']:.3g}: the mean of the vectors would be closer to them"
            log.warning("%s is of no use, its %s; try a lower --lr or more --steps", name, reason)
        elif line["dead"] == 1:
            log.warning("%s is of no use, all of its features are dead; try a lower --lr", name)
        elif name in wanted and not 1 / NEAR < line["l0"] / wanted[name] < NEAR:
            reason = f"an L0 of {line['l0']:.1f}, not {wanted[name]}"
            log.warning("%s has %s; give more --steps, or the weight of its penalty", name, reason)


@contextmanager
def tensorboard_callback(folder: Path) -> Iterator[Callback]:
    """A callback that writes events for TensorBoard into the folder ``tensorboard`` of a training's folder."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / TENSORBOARD)) as writer:

        def write(sae: str, step: int, measured: Mapping[str, float]) -> None:
            for name, value in measured.items():
                writer.add_scalar(f"{name}/{sae}", value, step)
            writer.flush()

        yield write


def draw_learning_curves(folder: Path) -> Path | None:
    """Draw ``learning.png`` of a training's folder: a row of panels for each site, a line for each SAE.

    Returns:
        Its path; None where the log is empty.
    """
    lines = pd.DataFrame(read_log(folder))
    if lines.empty:
        return None
    lines[["site", "what"]] = lines["sae"].str.extract(r"(.*?)_((?:k|l1-|l0-)\d.*)")
    sites, saes = list(lines["site"].unique()), list(lines["what"].unique())
    with rc_context(PAPER):
        figure = Figure(figsize=(7.2, 1.0 + 1.9 * len(sites) + 0.09 * len(saes)), layout="constrained")
        axes = figure.subplots(len(sites), len(PANELS), squeeze=False, sharex=True)
        for row, site in zip(axes, sites, strict=True):
            for panel, (column, title) in zip(row, PANELS.items(), strict=True):
                for number, what in enumerate(saes):
                    part = lines[(lines["site"] == site) & (lines["what"] == what)]
                    style = DASHES[number % len(DASHES)]  # lines that coincide are both seen
                    colour = COLOURS[number % len(COLOURS)]
                    panel.plot(part["vectors"], part[column], color=colour, linestyle=style, linewidth=1, label=what)
                panel.set_title(f"{site}: {title}")
                if site == sites[-1]:
                    panel.set_xlabel("vectors trained on")
        handles, labels = axes[0][0].get_legend_handles_labels()
        readable = [label.replace("_", ", ").replace("aux-", "aux ").replace("seed", "seed ") for label in labels]
        figure.legend(handles, readable, loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(folder / FIGURE, dpi=SCREEN, metadata=METADATA["png"])
    return folder / FIGURE

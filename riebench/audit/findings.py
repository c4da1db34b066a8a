"""The results of an audit: all parts, and the verdict for each ranking."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import pandas as pd

from riebench.audit.evidence import RANKING, Evidence, Subject
from riebench.audit.faults import Faults
from riebench.audit.gaming import Gaming
from riebench.audit.noise import Noise
from riebench.audit.part import LeftOut, Part
from riebench.audit.power import Power
from riebench.audit.same_mask import SameMask
from riebench.audit.truth import Agreement

PARTS: tuple[type[Part], ...] = (Noise, Power, Agreement, Gaming, SameMask, Faults)
"""In the order of the page."""
VERDICTS: tuple[type[Part], ...] = (Agreement, Power, Noise, Gaming, SameMask, Faults)
"""In the order of a ranking's verdict."""
log = logging.getLogger(__name__)


@dataclass
class Findings:
    """The results of an audit.

    Attributes:
        subject: the audited arms.
        parts: the parts that the records allow.
        left_out: name of a part to the reason why it is left out.
        notes: remarks for the reader.
    """

    subject: Subject
    parts: dict[type[Part], Part] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        """Name of a CSV file, without ending, to its frame."""
        return {name: frame for part in self.parts.values() for name, frame in part.frames().items()}

    def verdicts(self) -> dict[str, list[str]]:
        """Ranking to sentences: what it can tell, from how many pairs on, and where it misleads."""
        parts = [self.parts[kind] for kind in VERDICTS if kind in self.parts]
        rankings = [score for score in RANKING if score in self.subject.table.scores]
        return {ranking: [sentence for part in parts for sentence in part.verdict(ranking)] for ranking in rankings}


def find(evidence: Evidence, budget: float) -> Findings:
    """Compute every part that the records allow.

    Raises:
        UserError: if fewer than two arms reach the budget on half of the pairs.
    """
    findings = Findings(Subject.of(evidence, budget))
    for headline in evidence.unused:
        findings.notes.append(f"left out, as its conditions differ from those of the first run: {headline}")
    for kind in PARTS:
        log.info("audit part: %s", kind.name)
        try:
            findings.parts[kind] = part = kind.measure(findings.subject)
        except LeftOut as reason:
            findings.left_out[kind.name] = str(reason)
        else:
            findings.notes.extend(part.notes)
    return findings

"""Check on one GPU what a CPU cannot show; see ``scripts/gpu_check``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from gpu_checks import CHECKS, FAMILIES, checks_of
from gpu_checks.checking import carry_out
from gpu_checks.place import Place
from gpu_checks.written import facts_of, write

from riebench.models.devices import pick_device
from riebench.util.errors import UserError


def main(words: list[str] | None = None) -> int:
    """Run the checks; the exit code is 1 if one failed, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu to try the checks themselves")
    parser.add_argument("--size", choices=("true", "tiny"), default="true", help="shapes of the random models")
    parser.add_argument(
        "--family", action="append", default=[], choices=FAMILIES, help="few blocks, instead of the rest"
    )
    parser.add_argument("--only", action="append", default=[], metavar="PART", help="checks whose name has this part")
    parser.add_argument("--seconds", type=float, default=500.0, help="no check is begun after them")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check"), help="folder for JSON and table")
    arguments = parser.parse_args(words)
    known = checks_of(arguments.family) or CHECKS
    checks = [check for check in known if not arguments.only or any(part in check.name for part in arguments.only)]
    try:
        device = pick_device(arguments.device)
        if not checks:
            raise UserError(f"no check has {arguments.only} in its name; known: {', '.join(c.name for c in known)}")
    except UserError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    rows = []
    with tempfile.TemporaryDirectory() as work:
        place = Place(device, arguments.size, Path(work))
        facts = facts_of(place)
        for row in carry_out(checks, place, arguments.seconds):
            rows.append(row)
            write(arguments.out, facts, rows)  # after each, so that what was found is there whatever comes next
    counts = {status: sum(row.status == status for row in rows) for status in ("passed", "failed", "skipped")}
    print(f"{', '.join(f'{n} {s}' for s, n in counts.items())}; {arguments.out}/gpu-check.md and gpu-check.json")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())

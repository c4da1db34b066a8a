"""``python -m riebench``."""

from riebench.cli import main

main()

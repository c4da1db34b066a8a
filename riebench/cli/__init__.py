"""The command line: arguments to calls, errors to messages."""

from riebench.cli.main import main

__all__ = ["main"]

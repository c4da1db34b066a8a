"""The audit of the benchmark: what its scores can tell, from how many pairs on, and where they mislead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from riebench.audit.auditing import audit as audit

__all__ = ["audit"]


def __getattr__(name: str) -> Any:
    # Imported on first use: the audit imports pandas and the engine.
    if name == "audit":
        from riebench.audit.auditing import audit

        return audit
    raise AttributeError(f"module 'riebench.audit' has no attribute {name!r}")

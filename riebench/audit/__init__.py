"""The audit: what can the benchmark's scores tell, from how many pairs on, and where do they mislead?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from riebench.audit.auditing import audit as audit

__all__ = ["audit"]


def __getattr__(name: str) -> Any:
    # Imported when asked for, as the folder's parts import one another.
    if name == "audit":
        from riebench.audit.auditing import audit

        return audit
    raise AttributeError(f"module 'riebench.audit' has no attribute {name!r}")

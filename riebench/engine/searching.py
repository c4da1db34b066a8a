"""The courses of a search for an LPIPS: what is known of each, and which settings come next. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from riebench.settings.lpips_search import LpipsSearch, Points

if TYPE_CHECKING:
    from riebench.engine.tasks import Wanted
    from riebench.records import Setting

Course: TypeAlias = tuple[int, tuple[int, ...] | None]
"""A condition by its number, in an interval of the steps: on each pair its strength is searched by itself."""


def course_of(wanted: Wanted) -> Course:
    """The course that a setting is a point of."""
    return wanted.condition, wanted.setting.on_steps


def courses(points: Iterable[tuple[Wanted, float | None]]) -> dict[Course, dict[float, float | None]]:
    """The points of each course, from settings of one pair with the LPIPS of their pictures."""
    found: dict[Course, dict[float, float | None]] = {}
    for wanted, lpips in points:
        found.setdefault(course_of(wanted), {})[wanted.setting.strength] = lpips
    return found


def next_settings(
    search: LpipsSearch, points: Mapping[Course, Points], like: Iterable[Wanted]
) -> list[tuple[int, Setting, tuple[float, ...]]]:
    """The settings that some courses come to next, with their conditions; none when they are at their end.

    Args:
        search: what is searched for.
        points: of each course.
        like: a setting of each course at least, whatever its strength.
    """
    settings = {course_of(wanted): wanted.setting for wanted in like}
    return [
        (course[0], settings[course].model_copy(update={"strength": strength}), search.budgets)
        for course, known in points.items()
        for strength in search.next_strengths(known)
    ]

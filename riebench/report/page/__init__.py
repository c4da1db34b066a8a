"""The HTML of a report: one page that needs no server and no network."""

from riebench.report.page.build import write_leaderboard, write_page

__all__ = ["write_leaderboard", "write_page"]

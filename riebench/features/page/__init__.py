"""The HTML page of a feature index."""

from riebench.features.page.page_files import write_feature_page

__all__ = ["write_feature_page"]

"""The HTML page of a feature index."""

from riebench.sae.page.write import write_feature_page

__all__ = ["write_feature_page"]

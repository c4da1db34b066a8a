"""The scores of dictionaries as pure functions on arrays. Needs no torch."""

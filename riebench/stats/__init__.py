"""Statistics as pure functions on arrays. Needs no torch."""

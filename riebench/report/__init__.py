"""From records to tables, curves, figures, pages and contact sheets. Needs no torch."""

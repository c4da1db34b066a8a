"""The order of work: base and source run, masks, plans, edited runs, metrics, records."""

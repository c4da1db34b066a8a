"""Settings of models and instruments, protocols, step intervals, the LPIPS search. Needs no torch."""

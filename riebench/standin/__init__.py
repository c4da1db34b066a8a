"""Stand-ins: random weights in the on-disk layouts of the published ones."""

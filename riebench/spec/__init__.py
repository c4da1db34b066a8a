"""What can be asked for: settings, protocols, presets, and the resolution of a request. Needs no torch."""

"""What any program has: errors, progress, files, caches, batches, timings. Knows nothing of the field."""

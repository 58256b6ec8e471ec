"""One run, and many at once."""

"""The results database, its rows, model files, and the provenance of runs."""

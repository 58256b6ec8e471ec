"""Grids that carry messages to clients: in this process, or on Ray actors."""

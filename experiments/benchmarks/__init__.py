"""Measurements of fedsam against plain code; each module is a command."""

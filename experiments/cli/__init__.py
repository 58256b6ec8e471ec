"""The command `fedsam`."""

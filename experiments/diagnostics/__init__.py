"""Checks of this machine for `fedsam doctor`."""

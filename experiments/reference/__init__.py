"""What every setting means, for `fedsam explain` and the documentation."""

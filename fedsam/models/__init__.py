"""Networks as pure functions of one parameter vector."""

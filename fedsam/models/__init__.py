"""Network architectures, and networks as functions of one parameter vector."""

"""The engine: knows torch, Flower and Ray; knows no algorithm."""

import os

# Flower reads this once, when it is imported: telemetry is off unless the user turns it on.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

"""The results database, its rows, and where each run came from."""

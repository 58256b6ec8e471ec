"""What server and clients send each other, and how updates are aggregated on the way."""

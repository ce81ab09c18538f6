"""A platform that a real Prometheus watches: what breaks, which alert says so, what the dashboard shows."""

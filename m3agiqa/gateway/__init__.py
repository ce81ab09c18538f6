"""The queue over HTTP: `python -m m3agiqa.gateway`. It holds no state; it is a client of the queue."""

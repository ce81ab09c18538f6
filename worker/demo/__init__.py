"""What `make demo` runs: `python -m worker.demo`."""

"""Runs a measurement."""

import sys

from worker.load.measure import main

if __name__ == "__main__":
    sys.exit(main())

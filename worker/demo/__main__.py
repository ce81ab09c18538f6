"""Runs the demo."""

import sys

from worker.demo.show import main

if __name__ == "__main__":
    sys.exit(main())

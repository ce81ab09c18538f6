"""`python -m m3agiqa` is `m3agiqa`."""

import sys

from m3agiqa.cli import main

if __name__ == "__main__":
    sys.exit(main())

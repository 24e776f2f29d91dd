"""Runs the command line: ``python -m reattend``."""

import sys

from reattend.cli.entry import main

if __name__ == "__main__":  # not in worker processes, which import this file
    sys.exit(main())

"""Runs the command line: ``python -m reattend``."""

import sys

from reattend.cli import main

sys.exit(main())

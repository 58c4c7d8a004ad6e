"""The entry point from a checkout: `python launch.py COMMAND`."""

import sys

from couplet.commands import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m allaprima`, the command line."""

import sys

from allaprima.command_line import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m zoo.cli`, for where the script is not on the path."""

import sys

from zoo.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m metajax` is the command line."""

import sys

from metajax.cli import main

sys.exit(main())

"""`python -m rethink` is the command `rethink`."""

import sys

from rethink.cli.main import main

sys.exit(main())

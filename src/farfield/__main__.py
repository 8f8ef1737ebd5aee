"""`python -m farfield` is the `farfield` command."""

import sys

from farfield.cli import main

sys.exit(main())

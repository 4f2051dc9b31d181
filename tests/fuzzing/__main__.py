"""`python -m fuzzing`: see `fuzzing.campaign`, which is a module of its own so that its processes find it."""

import sys

from fuzzing.campaign import main

sys.exit(main())

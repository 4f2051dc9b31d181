"""`python -m gateway` is `veriroute`."""

from .cli import main

raise SystemExit(main())

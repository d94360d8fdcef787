"""`python -m fleetcast`."""

import sys

from fleetcast.commands import main

sys.exit(main())

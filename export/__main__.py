"""`python -m edgesteer.export` is `edgesteer export`; this is the module for torchrun -m."""

import sys

from edgesteer.cli import main

main(["export", *sys.argv[1:]])

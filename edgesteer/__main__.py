"""`python -m edgesteer` is the command line."""

from edgesteer.cli import main

main()

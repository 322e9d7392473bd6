"""`python -m mailactors`."""

from mailactors.cli import main

main()

"""`python -m lexivid` is `lexivid`."""

from lexivid.cli import main

main()

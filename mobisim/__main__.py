"""`python -m mobisim`: the command line."""

from mobisim.cli import main

main()

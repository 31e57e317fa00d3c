"""`python -m thymodel`, the same as `thymodel`."""

from thymodel.cli import main

main()

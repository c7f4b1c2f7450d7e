"""``python -m octamark``."""

from octamark.cli import main

main()

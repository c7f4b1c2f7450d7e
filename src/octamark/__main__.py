"""``python -m octamark``."""

from octamark.cli import main

if __name__ == "__main__":  # processes that are spawned import this module
    main()

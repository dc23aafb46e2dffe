"""``python -m netgraph``."""

from netgraph.cli import main

main()

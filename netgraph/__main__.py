"""``python -m netgraph``."""

from netgraph.cli.main import main

main()

"""Run the command line as ``python -m netgraph``."""

from netgraph.cli.main import main

main()

"""Run the command line as ``python -m netgraph``."""

from netgraph.environment.import_path import search_installed_packages

with search_installed_packages():  # Python has put the working directory first
    from netgraph.cli.main import main

    main()

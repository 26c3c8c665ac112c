"""`python -m ovround`."""

from ovround.cli.app import main

main()

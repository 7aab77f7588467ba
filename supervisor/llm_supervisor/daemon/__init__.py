"""The daemon: what runs while the programs run. `daemon.py` puts its parts together."""

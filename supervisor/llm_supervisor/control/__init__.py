"""The control API: HTTP on a unix socket. ``messages`` are its bodies, ``server`` answers, ``client`` asks."""

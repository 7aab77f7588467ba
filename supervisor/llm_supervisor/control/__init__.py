"""The control API: HTTP on a unix socket. ``protocol`` has its bodies, ``server`` answers, ``client`` asks, and
``openapi`` documents it."""

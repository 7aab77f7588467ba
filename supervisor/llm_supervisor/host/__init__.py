"""The outside world, one thing a module: processes, their output, HTTP probes, systemd, our own log.

Modules here may import ``core`` for its values and nothing else of ours; they decide nothing.
"""

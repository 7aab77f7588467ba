"""Commands that need no daemon: install, check of the host, pull, verify, settings of clients, presets."""

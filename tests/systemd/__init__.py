"""The daemon under a real systemd, by the unit that we ship."""

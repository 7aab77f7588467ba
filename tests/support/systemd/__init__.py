"""A systemd for tests: one that is booted in namespaces, and the unit under test inside of it."""

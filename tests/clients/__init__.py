"""The real coding clients, from npm: `make test-clients`."""

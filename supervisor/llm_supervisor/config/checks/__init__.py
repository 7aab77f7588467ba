"""Checks of a configuration: each looks at one part and yields the problems that it finds."""

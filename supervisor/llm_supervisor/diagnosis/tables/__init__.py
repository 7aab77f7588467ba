"""Known failures as data, one table a subject; the order of the tables is in `matcher`."""

"""The life of one program: its runner, its probes, and what is written down about it."""

"""Files that run INSIDE an engine's environment, started by path. Standard library and the engine only."""

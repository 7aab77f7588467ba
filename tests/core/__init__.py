"""Tests of the decisions and of the runner that carries them out: no process, no socket, no real time."""

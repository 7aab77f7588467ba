"""The decisions: specifications, events, effects, states and the functions between them.

Nothing here may import asyncio, time, os, random or structlog, do input or output, or keep anything outside its
arguments. Time comes in as ``now``: monotonic seconds of whoever calls.
"""

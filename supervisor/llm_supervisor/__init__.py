"""llm-supervisor: one daemon that keeps one OpenAI-compatible endpoint alive on a GPU host.

The package is a stack of floors (tests/test_architecture.py keeps it so): ``core`` decides and
touches nothing, ``host``, ``engines``, ``diagnosis`` and ``control.protocol`` each know one thing of the outside,
``config``, ``supervision`` and ``control.server`` join them, ``daemon`` is the composition root, ``cli`` is the mouth.
"""

__version__ = "0.2.0"

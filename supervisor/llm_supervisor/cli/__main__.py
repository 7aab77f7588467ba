"""`python -m llm_supervisor.cli` is the command."""

import sys

from llm_supervisor.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

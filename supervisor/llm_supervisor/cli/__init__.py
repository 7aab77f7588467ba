"""The command `llm-supervisor`."""

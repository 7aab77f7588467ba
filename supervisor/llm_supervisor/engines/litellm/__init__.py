"""LiteLLM: the configuration that it gets, its command line and environment, and what its answers mean."""

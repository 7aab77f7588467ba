"""vLLM: its options, its command line and environment, what its answers and log lines mean, and which options an
installed version has."""

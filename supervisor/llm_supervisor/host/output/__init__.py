"""The output of children: a FIFO each, one thread that moves the bytes into numbered files, and reading them back."""

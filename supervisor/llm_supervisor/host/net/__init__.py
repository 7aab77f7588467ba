"""TCP ports and unix sockets of this machine: who holds a port, and listening sockets of our own."""

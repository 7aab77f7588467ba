"""The real world of a runner: processes, sockets, logs and GPUs of this machine."""

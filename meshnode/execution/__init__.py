"""Running models: the queue, the worker processes and the devices of this machine."""

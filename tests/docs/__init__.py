"""The documents, followed word by word."""

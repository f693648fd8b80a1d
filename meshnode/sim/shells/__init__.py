"""Runs of the product's real asyncio shells on a virtual clock, over links and datagrams in memory."""

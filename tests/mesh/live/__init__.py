"""Routing and failover measured on one machine: eight real agents of very different speed, and what is done to them.

`throttle` makes them differ, `town` starts, kills and freezes them, `traffic` is the open-loop load, `bound` what could
be had at best, `phases` the experiments and `report` the command `scripts/bench/mesh`.
"""

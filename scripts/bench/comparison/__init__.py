"""The programs of `scripts/bench/compare`: other systems beside this one, on the same machine in the same run.

`contract` says what a system shows, `systems/` has a file for each and `register` the list. A turn (`turn`) starts one
system under a `keeper` that leaves nothing behind, has a `driver` in that system's own environment put questions to it,
and counts what its processes take (`counting`). `rounds` gives every system its turn, again and again; `figures` makes
medians of the turns, `page` and `plots` what is read.
"""

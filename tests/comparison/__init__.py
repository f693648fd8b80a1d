"""The frame of scripts/bench/compare; the systems themselves are tried by running it."""

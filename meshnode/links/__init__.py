"""How agents talk: one multiplexed, mutually authenticated connection a peer, and the local door's socket."""

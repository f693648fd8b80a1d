"""Neighbouring versions in one mesh: the release before this one, built from its tag, beside this software."""

"""The invariants, checked at every commit, attempt and arrival."""

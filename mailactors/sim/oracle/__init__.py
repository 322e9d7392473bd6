"""Bounds on the figures of a run, each with what it assumes."""

"""Simulated vendors: what they do with a message, and the adapters that reach them."""

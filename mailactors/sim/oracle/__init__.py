"""The bounds that no policy can beat."""

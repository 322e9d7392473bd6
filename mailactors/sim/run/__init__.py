"""One run from beginning to end, and many side by side."""

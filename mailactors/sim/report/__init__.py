"""What a run came to: figures, series, the printed table and the page."""

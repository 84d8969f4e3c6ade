"""Text as streams, lines and masked sentences."""

"""Files: reading with limits and atomic writing."""

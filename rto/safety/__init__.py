"""What a run leaves open to others, and what it refuses to start with. Needs no library."""

"""Numbers: arithmetic, functions and sequences that go on beyond the range seen."""

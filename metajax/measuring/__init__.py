"""Reference programs, and what they take in time and memory."""

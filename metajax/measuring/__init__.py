"""Reference programs, and measurements of their time and memory."""

"""What ``reattend demo`` shows."""

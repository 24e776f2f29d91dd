"""Data sets: pictures, questions and what is true of them."""

"""What methods do to made-up words: the tables and the picture, from the journals of a run."""

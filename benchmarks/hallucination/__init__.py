"""What methods do to hallucination: the tables and the picture, from the journals of a run."""

"""Running an evaluation: answers, workers, and the journal that a run goes on from."""

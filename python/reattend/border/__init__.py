"""The border to the compiled core: arrays prepared or errors that name them, dtypes, results."""

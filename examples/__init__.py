"""Examples of use: a demonstration on rendered video clips."""

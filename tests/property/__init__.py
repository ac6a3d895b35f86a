"""Properties of the whole engine over the simulated world."""

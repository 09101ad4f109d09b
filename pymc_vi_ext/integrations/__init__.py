"""Results as other libraries expect them; each module needs its library alone."""

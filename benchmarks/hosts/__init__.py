"""These measure what a fleet of many hosts costs beside what its hosts compute."""

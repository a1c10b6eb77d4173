"""What a fleet of many hosts costs, beside what its hosts compute."""

"""The page of the fleet is served here, and what it shows, twice a second."""

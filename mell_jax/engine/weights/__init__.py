"""New weights for a model that is served: found, checked, and put into its form."""

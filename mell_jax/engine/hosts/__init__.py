"""An engine host computes what others decide: one of many processes of a fleet."""

"""A fleet without devices: a trace in, devices used and requests moved out."""

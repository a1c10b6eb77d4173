"""Finds the devices that a load needs, by search over the simulator."""

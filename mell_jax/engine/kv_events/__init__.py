"""Others hear which prefixes are cached where, and can send requests there."""

"""A fleet of hosts on the nodes of a Ray cluster, one actor per node."""

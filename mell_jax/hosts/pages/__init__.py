"""Pages on their way between two hosts, on connections and threads of their own."""

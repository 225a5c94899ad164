"""Where records lie: the interface, memory, and LMDB."""

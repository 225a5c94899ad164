"""The classic door: the names and the behaviour of kvgit 0.1.3, as a thin layer over the engine."""

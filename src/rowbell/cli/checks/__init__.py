"""The checks of ``rowbell doctor``: each takes the engine and the target, and returns findings."""

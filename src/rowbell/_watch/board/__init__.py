"""The watches of one watcher, in memory. Nothing here awaits; the clock is an argument.

It decides whether a watch may rely on notifications, and when its row is read next.
"""

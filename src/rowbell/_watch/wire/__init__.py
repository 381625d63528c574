"""What a relay and its processes say to each other, and the ways on which they say it.

``messages`` has every message, ``transport`` what a way must promise, ``stream`` is a unix socket.
"""

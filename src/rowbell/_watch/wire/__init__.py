"""What a relay and its processes say to each other, and the ways on which they say it.

``messages`` are what they say, ``envelopes`` number it, ``rhythm`` is how often they show that they
live. ``transport`` is what a way must promise; ``stream`` is a unix socket, ``nats`` a broker.
"""

"""What notifies the board that rows may have changed.

Here it is decided whether notifications arrive, and whether one may have been missed.
"""

"""Sessions for requests and workers, and transactions inside them."""

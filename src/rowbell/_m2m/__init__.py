"""Many-to-many relationships: rows of the secondary table are added and removed without loading."""

"""What proposers read: an entry for each system of the catalogue, lessons of campaigns, and retrieval over both."""

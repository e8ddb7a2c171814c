"""`make bench`: how fast the product is, beside its peers in the same run on the same machine."""

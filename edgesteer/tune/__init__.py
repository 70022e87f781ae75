"""edgesteer tune: the dial that a user never has to search for. Knows no PyTorch."""

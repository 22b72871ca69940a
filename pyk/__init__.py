"""What every component shares: the vocabulary, the client, the loop, the command line and the local lab."""

__version__ = "0.1.0"

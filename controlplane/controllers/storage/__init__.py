"""The loops of storage: claims find volumes, volumes are made and taken away, and nothing in use is lost."""

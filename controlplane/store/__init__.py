"""The store contract and its implementations; `open_store` picks one. Nothing else knows which database there is."""

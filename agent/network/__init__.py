"""The pods' network on one node: addresses, links and routes."""

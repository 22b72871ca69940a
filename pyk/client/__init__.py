"""The async client of the API: requests, watches, informers, events."""

"""The declarations of all kinds, one module an API group (small groups share one). Building no model."""

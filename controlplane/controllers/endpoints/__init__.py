"""What stands behind services: EndpointSlices, Endpoints, and slices that mirror Endpoints of other hands."""

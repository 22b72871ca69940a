"""The ingress: an HTTP reverse proxy that leads requests from outside to Services, as Ingress objects say.

It runs as pods (`manifests/ingress.yaml`), knows `pyk` alone and talks to the API server like any other client.
`routes` decides where a request goes and `endpoints` who can answer it, both pure; `forward` and `tunnel` pass it on;
`certificates` chooses who we are by TLS; `status` tells the Ingress where it is served; `server` holds it together.
"""

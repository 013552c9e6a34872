"""A cluster of one Service with two endpoints, and a packet to it."""

TO_WEB = ("--from=10.244.0.1", "--to=10.96.0.80:80/tcp")  # words that ask about a packet to it

CLUSTER = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {type: NodePort, clusterIP: 10.96.0.80, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: "", port: 8080}]
endpoints: [{addresses: [10.244.0.7]}, {addresses: [10.244.0.8]}]
"""

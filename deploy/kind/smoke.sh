#!/bin/sh
# Whether Services work in the cluster that kubectl's current context names: a cluster IP, a name, a node port of every
# node, an endpoint that goes and one that comes. Makes a namespace of its own and removes it.
#
#   deploy/kind/smoke.sh            # needs kubectl; the nodes pull IMAGE, or have it
set -eu
IMAGE=${IMAGE:-registry.k8s.io/e2e-test-images/agnhost:2.53}
namespace=kproxy-smoke
failed=0

kubectl() { command kubectl --namespace "$namespace" "$@"; }
say() { printf '%s\n' "$*"; }
fail() { say "smoke: $*" >&2; exit 1; }

# check WHAT WANTED COMMAND...: until what COMMAND prints fits the pattern WANTED, 30 times at most, for rules follow a
# change by a second or two
check() {
    what=$1 wanted=$2 tries=0
    shift 2
    while :; do
        got=$("$@" 2>&1) || got="failed: $got"
        # shellcheck disable=SC2254 # WANTED is a pattern
        case $got in $wanted) say "ok    $what"; return 0 ;; esac
        tries=$((tries + 1))
        [ "$tries" -lt 30 ] || break
        sleep 1
    done
    say "FAIL  $what: $got"
    failed=1
}
ask() { kubectl exec client -- curl --silent --show-error --max-time 3 "$1"; }
refused() { kubectl exec client -- curl --silent --show-error --max-time 3 "$1" 2>&1 | grep -o refused; }

command -v kubectl >/dev/null || fail "kubectl is not installed"
command kubectl rollout status daemonset/kproxy --namespace kube-system --timeout 120s ||
    fail "kproxy is not ready: kubectl -n kube-system describe pods -l app.kubernetes.io/name=kproxy"

trap 'command kubectl delete namespace "$namespace" --wait=false >/dev/null 2>&1' EXIT
trap 'exit 1' INT TERM
command kubectl create namespace "$namespace" >/dev/null || fail "cannot make the namespace $namespace; is one left?"
# The client is a pod of one node and the server mostly one of another.
kubectl run client --image "$IMAGE" --restart Never -- pause >/dev/null
kubectl create deployment web --image "$IMAGE" --replicas 2 -- /agnhost netexec --http-port=8080 >/dev/null
kubectl expose deployment web --port 80 --target-port 8080 --type NodePort >/dev/null
kubectl wait pod --all --for condition=Ready --timeout 180s >/dev/null || {
    kubectl get pods -o wide >&2
    fail "pods do not become ready; can the nodes pull $IMAGE?"
}

ip=$(kubectl get service web -o 'jsonpath={.spec.clusterIP}')
port=$(kubectl get service web -o 'jsonpath={.spec.ports[0].nodePort}')
check "cluster IP $ip" 'web-*' ask "http://$ip/hostname"
check "name web.$namespace" 'web-*' ask "http://web.$namespace.svc.cluster.local/hostname"
for node in $(command kubectl get nodes -o 'jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}'); do
    case $node in *:*) node="[$node]" ;; esac
    check "node port $node:$port" 'web-*' ask "http://$node:$port/hostname"
done
kubectl scale deployment web --replicas 0 >/dev/null
check "refused without endpoints" refused refused "http://$ip/hostname"
kubectl scale deployment web --replicas 1 >/dev/null
check "served again" 'web-*' ask "http://$ip/hostname"

[ "$failed" -eq 0 ] || fail "see kubectl -n kube-system logs -l app.kubernetes.io/name=kproxy"
say "Services work"

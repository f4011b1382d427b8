#!/usr/bin/env bash
# The main job, on the lab: two real clusters whose meshes do not trust each other become one virtual mesh with one root, a
# request from a pod in one reaches a service of the other, and the root is replaced while requests flow.
# Called by `make demo`; leaves the lab up. LAB names the lab (default: default).
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/bin:$PATH"
LAB=${LAB:-default}
HUB=management-plane-context
MEMBER=remote-cluster-context

if [ -t 1 ]; then bold=$(tput bold || true) dim=$(tput dim || true) off=$(tput sgr0 || true); else bold= dim= off=; fi
step() { printf '\n%s== %s%s\n' "$bold" "$*" "$off"; }
run() { printf '%s$ %s%s\n' "$dim" "$*" "$off"; "$@"; }

# presented CONTEXT DEPLOYMENT DIR: writes the certificates that ratings presents to the deployment's sidecar into DIR.
presented() {
  # openssl ends with an error after the handshake, because it has no client certificate to show.
  { kubectl --context "$1" exec "deploy/$2" -c istio-proxy -- openssl s_client -showcerts -connect ratings.default:9080 </dev/null 2>/dev/null || true; } |
    awk '/BEGIN CERT/ {file = dir "/" ++n ".pem"} file {print > file} /END CERT/ {close(file); file = ""}' dir="$3"
}
show_chain() {
  local dir; dir=$(mktemp -d)
  presented "$1" "$2" "$dir"
  for f in $(find "$dir" -name '*.pem' | sort -V); do
    printf '    %-26s %s\n' "$(openssl x509 -in "$f" -noout -fingerprint -sha256 | sed 's/.*=//; s/://g' | cut -c1-16)…" \
      "$(openssl x509 -in "$f" -noout -issuer -nameopt RFC2253 | sed 's/issuer=/issued by /')"
  done
  rm -rf "$dir"
}
root_of() { show_chain "$1" "$2" | tail -1 | awk '{print $1}'; }
show_roots() {
  echo "  what ratings presents in $HUB:";    show_chain "$HUB" reviews-v1
  echo "  what ratings presents in $MEMBER:"; show_chain "$MEMBER" reviews-v3
}

# asks URL: who answers in the other cluster, and whom its sidecar has seen calling.
asks() {
  local answer; answer=$(kubectl --context "$MEMBER" exec deploy/ratings-v1 -- /sample call "$1")
  printf '%s$ kubectl --context %s exec deploy/ratings-v1 -- /sample call %s%s\n' "$dim" "$MEMBER" "$1" "$off"
  # The first is the one that was asked; those that it asked in turn follow.
  echo "$answer" | grep -oE '"service":"[^"]*","version":"[^"]*","cluster":"[^"]*"' | head -1 |
    sed -E 's/"service":"(.*)","version":"(.*)","cluster":"(.*)"/  answered by   \1 \2 in \3/'
  echo "$answer" | grep -oE 'URI=[^",;\\]*' | head -1 | sed 's/URI=/  it sees       /'
}

# talk CONTEXT DEPLOYMENT OPTION…: a pod of the deployment sends requests, each on a new connection, until hush is called.
loads=$(mktemp -d)
trap 'rm -rf "$loads"' EXIT
lines=()
talk() {
  local context=$1 from=$2 load line; shift 2
  load=$(mktemp -u "$loads/XXXX")
  mkfifo "$load.in"
  kubectl --context "$context" exec -i "deploy/$from" -- /sample load -duration 0 -rate 20 -timeout 10s "$@" <"$load.in" >"$load.out" &
  exec {line}>"$load.in" # a line on it ends the load
  lines+=("$line")
}
# hush ends all loads and tells how many requests failed.
hush() {
  local line
  for line in "${lines[@]}"; do echo >&"$line"; done
  wait
  cat "$loads"/*.out | awk '
    { match($0, /"sent":[0-9]+/); sent += substr($0, RSTART + 7, RLENGTH - 7)
      match($0, /"failed":[0-9]+/); bad = substr($0, RSTART + 9, RLENGTH - 9); failed += bad }
    bad > 0 { print }
    END { printf "  %d requests were sent meanwhile, and %d failed\n", sent, failed; exit sent == 0 }'
}

step "Two real Kubernetes clusters, each with Istio and a root of its own"
lab up --name "$LAB"
eval "$(lab env --name "$LAB")"
run kubectl --context "$MEMBER" get pods -A

step "They do not trust each other: different roots"
show_roots
before=$(root_of "$HUB" reviews-v1)
[ "$before" != "$(root_of "$MEMBER" reviews-v3)" ] || { echo "The clusters share a root already; start with a fresh lab: make down"; exit 1; }

step "The hub goes into the management cluster, an agent into each"
for image in isthmus-hub isthmus-agent; do lab load --name "$LAB" --ref "lab.local/$image:dev" --binary "bin/$image"; done
run meshctl install --context "$HUB" --image-registry lab.local --image-tag dev
# The kubelets of the lab project a changed ConfigMap within seconds; the default is the 90 s of others.
run meshctl cluster register management-plane --context "$HUB" --member-context "$HUB" \
  --image-registry lab.local --image-tag dev --set kubeletProjection=5s
run meshctl cluster register remote-cluster --context "$HUB" --member-context "$MEMBER" \
  --image-registry lab.local --image-tag dev --set kubeletProjection=5s
run kubectl --context "$HUB" wait --for=create --timeout=60s -n isthmus-management-plane mesh/istiod-istio-system-management-plane
run kubectl --context "$HUB" wait --for=create --timeout=60s -n isthmus-remote-cluster mesh/istiod-istio-system-remote-cluster
run kubectl --context "$HUB" get meshes,destinations -A

step "One VirtualMesh with one generated root"
run cat demo/virtual-mesh.yaml
start=$(date +%s)
run kubectl --context "$HUB" apply -f demo/virtual-mesh.yaml
run kubectl --context "$HUB" wait -n isthmus-system virtualmesh/virtual-mesh --for=condition=Ready --timeout=300s
echo "  Ready after $(($(date +%s) - start)) s"

step "They trust each other: one root, an intermediate of its own in each cluster"
show_roots
[ "$(root_of "$HUB" reviews-v1)" = "$(root_of "$MEMBER" reviews-v3)" ] || { echo "The roots differ"; exit 1; }
[ "$(root_of "$HUB" reviews-v1)" != "$before" ] || { echo "The root did not change"; exit 1; }
run kubectl --context "$HUB" get vmesh,issuedcertificates,certificaterequests -A

step "The remote cluster has names for the services of the management cluster"
run kubectl --context "$MEMBER" get serviceentries -n istio-system
host=reviews.default.svc.management-plane.global
run kubectl --context "$HUB" get gateways.networking.istio.io -n istio-system -o custom-columns='GATEWAY:.metadata.name,PORT:.spec.servers[*].port.number,MODE:.spec.servers[*].tls.mode,HOSTS:.spec.servers[*].hosts'

step "A request crosses: pod in the remote cluster -> its sidecar -> gateway of the management cluster -> sidecar -> pod"
asks "http://$host:9080/"
echo "  where the caller's sidecar sends it, and as what it asks the gateway for it:"
istioctl --context "$MEMBER" proxy-config endpoint deploy/ratings-v1 --cluster "outbound|9080||$host" | sed 's/^/    /'
istioctl --context "$MEMBER" proxy-config cluster deploy/ratings-v1 --fqdn "$host" --port 9080 -o json | grep -E '"sni"|"exact": "spiffe' | sed -E 's/^ +/    /'
echo "  that address is the gateway of the management cluster:"
kubectl --context "$HUB" get service -n istio-system istio-eastwestgateway | sed 's/^/    /'
echo "  and this is what the gateway says of a TCP connection (the name that it was asked for, and the pod that it chose):"
kubectl --context "$MEMBER" exec deploy/ratings-v1 -- /sample call "tcp://$host:9000" >/dev/null
{ timeout 30 kubectl --context "$HUB" logs -n istio-system deploy/istio-eastwestgateway --follow --tail=50 || true; } |
  grep -m1 -oE '"[0-9.]+:9000" outbound_\.9000_\._\.reviews[^ ]*' | sed 's/^/    /'
run meshctl describe destination reviews.default --namespace isthmus-management-plane --context "$HUB"

step "Who may call it is one policy for all clusters"
run cat demo/access-policy.yaml
run kubectl --context "$HUB" apply -f demo/access-policy.yaml
run kubectl --context "$HUB" wait -n isthmus-system accesspolicy/reviews --for=condition=Ready --timeout=60s
for _ in $(seq 50); do kubectl --context "$MEMBER" exec deploy/ratings-v1 -- /sample call "http://$host:9080/" >/dev/null 2>&1 || break; done
echo "  now ratings of the remote cluster is refused, since only productpage may call reviews:"
run kubectl --context "$MEMBER" exec deploy/ratings-v1 -- /sample call "http://$host:9080/" || true
run kubectl --context "$HUB" delete -f demo/access-policy.yaml
run meshctl check --context "$HUB"

step "The root is replaced while requests flow, in each cluster and across"
old=$(root_of "$HUB" reviews-v1)
urls() { printf -- '-url %s ' "http://$1:9080/" "tcp://$1:9000" "grpc://$1:9090"; }
talk "$HUB" productpage-v1 $(urls ratings) $(urls ratings.default.svc.remote-cluster.global)
talk "$MEMBER" reviews-v3 $(urls ratings) $(urls ratings.default.svc.management-plane.global)
run meshctl rotation start --watch --context "$HUB" | cat # without a terminal it prints what changes, line by line
hush
show_roots
[ "$(root_of "$HUB" reviews-v1)" = "$(root_of "$MEMBER" reviews-v3)" ] || { echo "The roots differ"; exit 1; }
[ "$(root_of "$HUB" reviews-v1)" != "$old" ] || { echo "The root did not change"; exit 1; }
echo "  istiod was restarted, and nothing else:"
run kubectl --context "$HUB" get pods -n istio-system
run kubectl --context "$HUB" get pods -n default

step "The lab stays up"
cat <<'T'
  eval "$(make -s env)"                           a shell with kubectl, istioctl and meshctl for it
  meshctl describe virtualmesh virtual-mesh       what the hub knows
  meshctl rotation start --watch                  another root
  kubectl exec deploy/productpage-v1 -- /sample call http://reviews.default.svc.remote-cluster.global:9080/
  make down                                       ends it, and leaves nothing behind
T

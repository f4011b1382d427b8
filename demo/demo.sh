#!/usr/bin/env bash
# The main job, on the lab: two real clusters whose meshes do not trust each other become one virtual mesh with one root.
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
run meshctl cluster register management-plane --context "$HUB" --member-context "$HUB" --image-registry lab.local --image-tag dev
run meshctl cluster register remote-cluster --context "$HUB" --member-context "$MEMBER" --image-registry lab.local --image-tag dev
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
run meshctl check --context "$HUB"

step "The lab stays up"
cat <<'T'
  eval "$(make -s env)"                           a shell with kubectl, istioctl and meshctl for it
  meshctl describe virtualmesh virtual-mesh       what the hub knows
  make down                                       ends it, and leaves nothing behind
T

# Everything that is done with this repository, as targets. `make` alone lists them.
#
# What a target needs and does not find it makes or installs itself, in this order of size: the lint tools (a minute), the
# parts of the lab (some minutes). Both are kept outside of the checkout, under $XDG_CACHE_HOME, and made once.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

MODULE  := github.com/isthmus-mesh/isthmus
# A semantic version that is also a valid image tag: the tag of the commit, or what the next one will be.
VERSION ?= $(or $(shell git describe --tags --exact-match --match 'v*' 2>/dev/null | sed s/^v//),0.1.0-dev$(shell git rev-parse --short=9 HEAD 2>/dev/null | sed s/^/.g/))
LDFLAGS := -s -w -X $(MODULE)/internal/version.Version=$(VERSION)
CACHE   := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)

# The tools lie in a directory named by what they are made of.
TOOLS_ID  := $(shell cat tools/go.mod tools/go.sum tools/golangci-lint/*.go <(go env GOVERSION) | sha256sum | cut -c1-16)
TOOLS     := $(CACHE)/isthmus-tools/$(TOOLS_ID)
LINT      := $(TOOLS)/golangci-lint
GEN       := $(TOOLS)/controller-gen
GOTESTSUM := $(TOOLS)/gotestsum

PKG ?= ./...
RUN ?= .
# The linter vets tests too.
GOTESTFLAGS := -count=1 -vet=off $(if $(RACE),-race) -run '$(RUN)'
GOTEST := go test $(GOTESTFLAGS)

##@ General

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ /              { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z][a-z0-9-]*:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: bin/isthmus-hub bin/isthmus-agent bin/meshctl bin/lab ## Build hub, agent, meshctl and lab into bin/

# Go knows best what is out of date.
.PHONY: bin/isthmus-hub bin/isthmus-agent bin/meshctl bin/lab
bin/isthmus-hub bin/isthmus-agent bin/meshctl:
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/$(@F)

bin/lab:
	cd lab && CGO_ENABLED=0 go build -trimpath -o ../$@ .

.PHONY: images
images: ## Build container images of hub and agent with docker (IMAGE_REGISTRY, VERSION)
	for component in isthmus-hub isthmus-agent; do \
	  docker build --build-arg COMPONENT=$$component --build-arg VERSION='$(VERSION)' \
	    -t '$(or $(IMAGE_REGISTRY),ghcr.io/isthmus-mesh)'/$$component:'$(VERSION)' .; \
	done

.PHONY: clean
clean: ## Remove what was built in the checkout (caches stay)
	rm -rf bin

##@ A lab: real clusters on this machine (Linux, root)

.PHONY: lab
lab: bin/lab ## Build every part of the lab, once: Kubernetes, Istio, Envoy, images
	bin/lab build

.PHONY: up
up: lab bin/meshctl ## Start two clusters with Istio and sample workloads
	bin/lab up

.PHONY: down
down: bin/lab ## Stop the clusters and remove every trace of them
	bin/lab down

.PHONY: env
env: ## Print the environment of the running lab, for: eval "$(make -s env)"
	@if [ ! -x bin/lab ]; then $(MAKE) -s bin/lab >&2; fi
	@bin/lab env

.PHONY: demo
demo: lab build ## Watch two meshes that do not trust each other become one
	demo/demo.sh

##@ Tests (PKG=./internal/hub/... and RUN=Restore narrow them; RACE=1, with a C compiler, looks for data races)

.PHONY: test
test: lint test-unit test-integration test-e2e-short ## Lint, unit, integration and end-to-end tests, but for the long ones: within an hour

.PHONY: lint
lint: $(LINT) verify-generated ## Lint the code and the API types; check that generated code is current
	$(LINT) run ./...
	cd lab && $(LINT) run --config ../.golangci.yml ./...

.PHONY: test-unit
test-unit: ## Unit tests: what needs no API server
	@$(split-packages); [ -z "$$unit" ] || $(GOTEST) $$unit
	@cd lab && $(GOTEST) -short ./...

# What failed is run once more, alone, and said at the end: what passes then fails by chance, which is a defect as well, but does not
# keep what is right from landing (docs/decisions/2026-11-27-a-second-run.md).
failed-once = $(CURDIR)/bin/failed-once-$@.txt
testsum = rm -f $(failed-once); CI=true $(GOTESTSUM) --rerun-fails=1 --rerun-fails-max-failures=6 --rerun-fails-run-root-test --rerun-fails-report=$(failed-once)
tell-failed-once = if [ -s $(failed-once) ]; then echo "A test failed, and passed when it was run once more. That is a defect, of it or of what it tests:"; cat $(failed-once); fi

.PHONY: test-integration
test-integration: bin/lab $(GOTESTSUM) ## Integration tests, on real API servers
	@bin/lab build --only etcd,kube-apiserver,bao,cert-manager,pilot-discovery,envoy
	@$(lab-env); $(split-packages); [ -z "$$integration" ] || \
	  { $(testsum) --format pkgname-and-test-fails --packages="$$(echo $$integration)" -- $(GOTESTFLAGS) -p 2 -timeout 30m; $(tell-failed-once); }

# bin/_artifacts has what the programs logged.
.PHONY: test-e2e test-e2e-short
test-e2e-short: E2E := -short
test-e2e test-e2e-short: lab build $(GOTESTSUM)
	@cd lab && $(GOTEST) -timeout 20m .
	@$(testsum) --format standard-verbose --packages=./test/e2e/... -- $(GOTESTFLAGS) $(E2E) -artifacts -outputdir $(CURDIR)/bin -timeout 4h
	@$(tell-failed-once)
test-e2e: ## End-to-end tests, all: real clusters with Istio and traffic (about two hours)
test-e2e-short: ## End-to-end tests but for the long ones

# CHURN is for how long services come and go under traffic.
CHURN ?= 10m

.PHONY: chaos
chaos: lab build ## Hours more: failures under traffic, one by one in each step of a rotation, services that come and go (CHURN), many under limited trust, the model of rotations deeper
	@CI=true ISTHMUS_E2E_CHURN=$(CHURN) go test -count=1 -v -timeout 90m \
	  -run 'TestE2E/^(Install|Guide|Federation|ProgramsDown|APIServersDown|ClusterCutOff|ServiceChurn)$$' ./test/e2e/...
	@CI=true ISTHMUS_E2E_MATRIX=1 go test -count=1 -v -timeout 120m -run '^TestRotation' ./test/e2e/...
	@CI=true ISTHMUS_E2E_MANY=1000 go test -count=1 -v -timeout 60m -run '^TestLimited$$/^(Install|Joined|ThirdJoins|Many)$$' ./test/e2e/...
	@ISTHMUS_DEEP_MODEL=1 go test -count=1 -timeout 120m ./internal/rotation

.PHONY: bench
bench: bin/lab ## Run every benchmark
	@bin/lab build --only etcd,kube-apiserver
	@$(lab-env); go test -run '^$$' -bench . -benchmem -timeout 60m $(PKG)

# The environment of the tests: etcd and kube-apiserver for API servers of their own, and the tools of the lab.
lab-env = eval "$$(bin/lab env 2>/dev/null)"

# Sets $unit and $integration: a package is integration if its tests can start API servers.
define split-packages
all=$$(go list $(PKG) | grep -v /test/e2e | sort); \
integration=$$(go list -test -f '{{.ImportPath}} {{.Deps}}' $$all \
  | awk '$$1 ~ /\.test$$/ && /internal\/testenv[] ]/ { sub(/\.test$$/, "", $$1); print $$1 }' | sort); \
unit=$$(comm -23 <(echo "$$all") <(echo "$$integration"))
endef

##@ Generated code

.PHONY: generate
generate: $(GEN) ## Generate deep copies and CRDs from the API types
	$(GEN) object paths=./api/...
	$(GEN) $(CRD_OPTIONS) paths=./api/v1alpha1 output:crd:dir=charts/isthmus-crds/files

CRD_OPTIONS := crd:generateEmbeddedObjectMeta=false

.PHONY: verify-generated
verify-generated: $(GEN) ## Check that generated code is current
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	for dir in $$(go list -f '{{.Dir}}' ./api/...); do \
	  $(GEN) object paths="$$dir" output:object:dir="$$tmp/go"; \
	  diff -u "$$dir/zz_generated.deepcopy.go" "$$tmp/go/zz_generated.deepcopy.go" || stale=yes; \
	done; \
	$(GEN) $(CRD_OPTIONS) paths=./api/v1alpha1 output:crd:dir="$$tmp/crds"; \
	diff -ru charts/isthmus-crds/files "$$tmp/crds" || stale=yes; \
	if [ -n "$${stale:-}" ]; then echo 'generated code is not current: run make generate and commit what changes' >&2; exit 1; fi

$(LINT):
	@echo 'building golangci-lint (once, about a minute)'
	@cd tools && go build -ldflags '-s -w' -o $@ ./golangci-lint

$(GEN):
	@cd tools && go build -ldflags '-s -w' -o $@ sigs.k8s.io/controller-tools/cmd/controller-gen

$(GOTESTSUM):
	@cd tools && go build -ldflags '-s -w' -o $@ gotest.tools/gotestsum

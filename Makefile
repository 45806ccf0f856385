# Everything is built into bin/, which the nodes of a lab see as it is.
GO  ?= go
BIN := $(CURDIR)/bin
OUT := $(CURDIR)/out

# Static, because the nodes' root file system is another Debian than the machine's.
export CGO_ENABLED = 0
export GODWIT_BIN = $(BIN)

# Without gRPC's request pages, whose templates may call any method of any type by its name: the linker then keeps them all, which
# makes each binary half as large again.
TAGS := grpcnotrace

.PHONY: build
build: $(notdir $(wildcard cmd/*)) kubectl-godwit

# One target for each directory of cmd/: `make godwit-lab` builds that alone.
.PHONY: $(notdir $(wildcard cmd/*))
$(notdir $(wildcard cmd/*)):
	$(GO) build -trimpath -tags $(TAGS) -o $(BIN)/$@ ./cmd/$@

# kubectl's plugin is godwitctl under another name.
.PHONY: kubectl-godwit
kubectl-godwit: godwitctl
	ln -sf godwitctl $(BIN)/kubectl-godwit

# The container image, for `ctr -n k8s.io images import`. Needs neither a registry nor Docker.
.PHONY: image
image: build
	$(GO) run ./contrib/image -bin $(BIN) -out $(OUT)/godwit-image.tar

# What a bare Debian lacks, and the root file systems of nodes and images.
.PHONY: setup
setup: godwit-lab
	$(BIN)/godwit-lab setup

# A redis under load, moved between two nodes of its own.
.PHONY: demo
demo: build setup
	$(GO) run ./test/demo -out $(OUT)/demo.json

.PHONY: bench
bench: build setup
	$(GO) run ./test/bench -out $(OUT)/bench.json
	$(MAKE) bench-vm

# The table of docs/bench.md alone, with its plots: all ways to move, programs and links. The machine must be idle, for half an hour.
.PHONY: bench-docs
bench-docs: build setup
	$(GO) run ./test/bench -only table -out $(OUT)/bench-docs.json -docs docs

# The engines against each other and against runc by hand, where there are both: in a virtual machine, with room for six times
# the memory that is moved. Ratios only. Emulated it takes most of an hour on a machine of its own.
.PHONY: bench-vm
bench-vm: build setup
	$(GO) run ./test/vm -timeout 3h -memory 8192 -out $(OUT) -bench

# Everything that CI asks for. While the emulated machine's processors take turns, Kubernetes is built.
.PHONY: test
test: lint generate-check rules-check unit e2e
	$(MAKE) -j2 test-vm kubernetes
	$(MAKE) e2e-kubernetes

# Timing is the bench's: here a busy machine makes nothing fail. What is allocated the race detector adds to: those tests run without it.
.PHONY: unit
unit: setup
	CGO_ENABLED=1 $(GO) test -race -timeout 40m $$($(GO) list ./... | grep -v /test/)
	$(GO) test -run 'Allocates|MemoryOf' ./pagestream/precopy
	$(GO) test -timeout 40m ./test/load/... ./test/workload/... ./test/lab/... ./test/pace/... ./test/figure/... ./test/bench/... ./test/enginebench/... ./test/byhand/...
	$(GO) test -short ./test/vm/...

.PHONY: e2e
e2e: build setup
	$(GO) test -count=1 -timeout 60m ./test/e2e/...

# The lab's Kubernetes, built from its modules the first time. Everything else comes before it.
.PHONY: kubernetes
kubernetes: build setup
	nice -n 19 $(BIN)/godwit-lab setup --kubernetes
	nice -n 19 $(BIN)/godwit-lab helm

# On a Kubernetes of the lab's. Two suites at a time, with clusters of their own: they
# wait most of the time, for kubelet.
.PHONY: e2e-kubernetes
e2e-kubernetes: build setup
	$(BIN)/godwit-lab setup --kubernetes
	$(BIN)/godwit-lab helm
	GODWIT_KUBERNETES=1 $(GO) test -count=1 -p 2 -timeout 80m -run 'Kubernetes|Cluster|APIServer' -skip AnotherCluster ./clustercontroller/admission ./test/lab ./test/e2e ./test/e2e/kubectl

# The figures of a cluster, on a Kubernetes of the lab's. The machine must be idle.
.PHONY: bench-kubernetes
bench-kubernetes: build setup
	$(BIN)/godwit-lab setup --kubernetes
	$(GO) run -tags $(TAGS) ./test/bench/kubernetes -out $(OUT)/bench-kubernetes.json

# In a virtual machine, emulated unless there is KVM: a kernel with soft-dirty tracking, cgroup version 2 alone. Here run the unit
# tests that this kernel is for, CRIU's rounds by soft-dirty bits among them, and end-to-end tests on two nodes: some with each
# tracker (VM_RUN), and some with one (VM_ONCE). Then, on a kernel as most in the field are, 6.1, which has soft-dirty tracking and nothing
# newer: the unit tests, and end-to-end tests (VM_FIELD), among them those with a CRIU of its time.
VM_TESTS ?= Freez|RealTree|Held|Holds|ChangedAreas|Children|ExecBegins|Quota
VM_RUN   ?= ^TestRedisLosesNothingWhileItIsWrittenTo$$/^live$$|^TestContainersOfAPodMoveAsOne$$|^TestPodsMoveByAnOlderCRIUAndToANewerOne$$
VM_FIELD ?= ^TestANodeChoosesTheTracker|^TestRedisLosesNothingWhileItIsWrittenTo$$/^live$$|^TestPodsMoveByAnOlderCRIUAndToANewerOne$$/^3.17$$
VM_ONCE  ?= ^TestRedisLosesNothingWhileItIsWrittenTo$$/^cold$$|^TestAMovedPodIsInItsCgroups|^TestAFailureLeaves/daemon_is_killed_while_the_pod_is_held

.PHONY: test-vm
test-vm: build setup
	$(GO) test -count=1 -timeout 10m ./test/vm/...
	$(GO) run ./test/vm -timeout 50m -test ./shim,./shim/cpuquota,./pagestream/pageserver,./pagestream/track -test-run '$(VM_TESTS)' \
		-e2e -run '$(VM_RUN)' -once '$(VM_ONCE)'
	$(GO) run ./test/vm -kernel bookworm -timeout 30m -test ./shim,./shim/criu,./pagestream/pageserver,./pagestream/pagemap -test-run '$(VM_TESTS)|Relay|SoftDirty|Probe|Recorded' \
		-e2e -run '$(VM_FIELD)'

# All end-to-end tests in there, with each tracker: an hour or more for each, on a core of its own. The machine's clock counts
# instructions, so that nothing in there sees how slow that is. VM_ARGS replaces what runs; see the comment at the head of
# test/vm/main.go.
VM_ARGS ?= -timeout 6h -e2e -counted

.PHONY: e2e-vm
e2e-vm: build setup
	$(GO) run ./test/vm $(VM_ARGS)

.PHONY: lint
lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "gofmt these: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

.PHONY: generate
generate:
	hack/generate.sh

# Generated code is what the sources say.
.PHONY: generate-check
generate-check:
	hack/generate.sh --check

# The alert rules and the dashboard, by Prometheus's own tool.
.PHONY: rules-check
rules-check:
	hack/check-rules.sh

# contrib/kubernetes's manifests, from the Helm chart, by a helm that is built the first time: some minutes.
.PHONY: manifests
manifests: godwit-lab
	hack/manifests.sh "$$($(BIN)/godwit-lab helm)"

# The labs outlive the commands that made them, so they go first.
.PHONY: clean
clean:
	[ ! -x $(BIN)/godwit-lab ] || $(BIN)/godwit-lab down
	rm -rf $(BIN) $(OUT)

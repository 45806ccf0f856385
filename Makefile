# Everything is built into bin/, which the nodes of a lab see as it is.
GO  ?= go
BIN := $(CURDIR)/bin

# Static, because the nodes' root file system is another Debian than the machine's.
export CGO_ENABLED = 0

.PHONY: build
build: $(notdir $(wildcard cmd/*))

# One target for each directory of cmd/: `make godwit-lab` builds that alone.
.PHONY: $(notdir $(wildcard cmd/*))
$(notdir $(wildcard cmd/*)):
	$(GO) build -trimpath -o $(BIN)/$@ ./cmd/$@

# The lab outlives the commands that made it, so it goes first.
.PHONY: clean
clean:
	[ ! -x $(BIN)/godwit-lab ] || $(BIN)/godwit-lab down
	rm -rf $(BIN) out

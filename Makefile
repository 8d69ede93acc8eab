# The commands of the project. A fresh machine needs Go and make; `check`
# installs the rest where it may (Debian, root) and says what it could not.

GO ?= go
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0

.PHONY: check setup fmt lint vuln test build bench inject generate vmtest

check: setup fmt-check lint vuln test

setup:
	./scripts/setup

fmt:
	gofmt -w .

.PHONY: fmt-check
fmt-check:
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "not formatted; run make fmt:"; echo "$$files"; exit 1; fi

lint:
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

# The vulnerability data lives on the network. Where it cannot be had the check
# says so and does not pretend to have passed.
vuln:
	@out=$$($(GO) run $(GOVULNCHECK) ./... 2>&1); status=$$?; \
	if [ $$status -eq 0 ]; then echo "$$out"; exit 0; fi; \
	case "$$out" in *"no such host"*|*"dial tcp"*|*"connection refused"*|*Forbidden*) echo "SKIPPED, NOT PROVEN: govulncheck cannot reach its data: $$(echo "$$out" | tail -n 1)";; \
	*) echo "$$out"; exit $$status;; esac

# -p 1: the packages of the agent hold the whole machine to account and do not
# share it well.
test:
	$(GO) build -race ./...
	$(GO) test -race -count=1 -p 1 -timeout 20m ./...

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/ ./cmd/...

bench:
	./scripts/bench

vmtest:
	./scripts/vmtest

generate:
	$(GO) generate ./...

# Hostile programs against the real agent, every scenario on every rung: takes
# an hour and needs root. `go test ./test/adversary` is the core.
.PHONY: adversary
adversary:
	cd test/adversary && $(GO) test -count=1 -timeout 3h . -adversary.long -seeds 5

# Every system call of a containment and of a restore, killed at and failed in
# every way: hours. A sample of it is part of `test`.
inject:
	$(GO) test -count=1 -v -timeout 12h ./test/inject -inject.all

# Random events against a real server and agent, for as many minutes as told:
# make soak MINUTES=60. Needs root. Two rounds of it are part of `test`.
MINUTES ?= 10
.PHONY: soak
soak:
	$(GO) test -count=1 -v -timeout 0 ./test/soak -soak.for $(MINUTES)m

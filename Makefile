# Everything that one needs to work on Weir. "make test" on a fresh machine
# installs what it lacks; nothing else here changes the machine.

GO          ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    ?= 30s

.PHONY: run test bench lint generate fuzz tools

# Serve the built-in models on 127.0.0.1:8080.
run:
	$(GO) run ./cmd/weir serve

# All tests, with the race detector. The module of the benchmarks has tests of
# its own; it is apart so that the libraries it compares with stay out of ours.
test: tools
	cd bench && $(GO) test ./...
	$(GO) test -race -timeout 10m ./...

# Ours beside others', in CPU time an operation. Not part of the tests: what a
# busy machine measures must not decide whether a change is right.
bench:
	cd bench && $(GO) test -run '^$$' -bench . -benchtime 300ms -count 5 -cpu 1 . | tee /dev/stderr | $(GO) run ./cmd/summary

lint:
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo 'run gofmt -w on these files'; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	cd bench && $(GO) vet ./... && $(GO) run $(STATICCHECK) ./...
	$(GO) mod verify

# Nothing is generated yet. Files that are will be made again here.
generate:
	$(GO) generate ./...

# Each fuzz test for FUZZTIME.
fuzz:
	@for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$f"; \
			$(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x $$pkg || exit 1; \
		done; \
	done

# The race detector needs a C compiler, and the tests of the first minutes use
# curl, as a newcomer does.
tools:
	@missing=""; \
	command -v cc >/dev/null || missing="$$missing gcc libc6-dev"; \
	command -v curl >/dev/null || missing="$$missing curl"; \
	if [ -n "$$missing" ]; then \
		if command -v apt-get >/dev/null; then \
			sudo=""; [ "$$(id -u)" = 0 ] || sudo=sudo; \
			$$sudo apt-get update -q && $$sudo apt-get install -y -q $$missing; \
		elif command -v brew >/dev/null; then \
			brew install $$(echo $$missing | sed 's/libc6-dev//'); \
		else \
			echo "install these first:$$missing"; exit 1; \
		fi; \
	fi

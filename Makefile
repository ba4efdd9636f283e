# Everything that one needs to work on Weir. "make test" on a fresh machine
# installs what it lacks; nothing else here changes the machine.

GO          ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    ?= 30s

.PHONY: run test soak bench lint generate fuzz tools

# Serve the built-in models on 127.0.0.1:8080.
run:
	$(GO) run ./cmd/weir serve

# All tests, with the race detector. Two modules have tests of their own: that of
# the benchmarks is apart so that the libraries it compares with stay out of ours,
# that of the clients because it needs Node, which it installs for itself. What
# decides the clients' results is the built program, which go test does not know
# of: it must not take yesterday's. The race detector watches what uses SQLite, and
# not the SQLite that was translated from C to Go: that has its memory to itself, and
# with the detector in it the tests of the database take five times as long.
test: tools
	cd bench && $(GO) test ./...
	cd clients && $(GO) test -count 1 ./...
	$(GO) test -race -gcflags=modernc.org/sqlite/lib='-race=false -d=checkptr=0' -timeout 15m ./...

# What make test does to processes with jobs, as often and as large as it must hold:
# 500 kills, results of 1 GiB, a database that is away for half a minute. About ten
# minutes, and 4 GiB of disk.
soak: tools
	WEIR_SOAK=250 $(GO) test -count 1 -timeout 60m -v -run '^TestJobs' ./cmd/weir/

# Ours beside others', in CPU time an operation. Not part of the tests: what a
# busy machine measures must not decide whether a change is right.
bench:
	cd bench && $(GO) test -run '^$$' -bench . -benchtime 300ms -count 3 -cpu 1 . | tee /dev/stderr | $(GO) run ./cmd/summary
	cd bench && $(GO) run ./cmd/overload
	cd bench && $(GO) run ./cmd/jobs
	cd bench && $(GO) run ./cmd/loadcheck

lint:
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo 'run gofmt -w on these files'; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	cd bench && $(GO) vet ./... && $(GO) run $(STATICCHECK) ./...
	cd clients && $(GO) vet ./... && $(GO) run $(STATICCHECK) ./...
	$(GO) mod verify

# Makes again what the tests make: the table in docs/dialects.md.
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

# The race detector needs a C compiler, the tests of the first minutes use curl, as
# a newcomer does, the dashboard is driven in Chromium, and the official clients
# come with npm. NodeSource's nodejs has npm in it, and conflicts with Debian's. The
# tests run Redis, nginx, Caddy and PostgreSQL of their own, on free ports; that
# Debian's packages start one each is no help to them, so what this installs is
# stopped again. PostgreSQL's programs are not on the PATH there.
tools:
	@missing=""; services=""; \
	command -v cc >/dev/null || missing="$$missing gcc libc6-dev"; \
	command -v curl >/dev/null || missing="$$missing curl ca-certificates"; \
	command -v npm >/dev/null || missing="$$missing npm"; \
	command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
		|| ls -d "/Applications/Google Chrome.app" /Applications/Chromium.app 2>/dev/null | grep -q . || missing="$$missing chromium"; \
	for s in redis-server nginx caddy; do \
		PATH="$$PATH:/usr/sbin" command -v $$s >/dev/null || services="$$services $$s"; \
	done; \
	command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 \
		|| ls /opt/homebrew/opt/postgresql@*/bin/initdb /usr/local/opt/postgresql@*/bin/initdb 2>/dev/null | grep -q . \
		|| services="$$services postgresql"; \
	missing="$$missing$$services"; \
	if [ -n "$$missing" ]; then \
		if command -v apt-get >/dev/null; then \
			sudo=""; [ "$$(id -u)" = 0 ] || sudo=sudo; \
			install="$$sudo apt-get install -y -q --no-install-recommends"; \
			$$sudo apt-get update -q && { $$install $$missing || $$install $$(echo $$missing | sed 's/npm/nodejs/'); } || exit 1; \
			for s in $$services; do \
				if [ -d /run/systemd/system ]; then $$sudo systemctl disable --now -q $$s || :; \
				elif [ -x /etc/init.d/$$s ]; then $$sudo service $$s stop || :; fi; \
			done; \
		elif command -v brew >/dev/null; then \
			brew install $$(echo $$missing | sed 's/libc6-dev//; s/npm/node/; s/redis-server/redis/; s/postgresql/postgresql@15/'); \
		else \
			echo "install these first:$$missing"; exit 1; \
		fi; \
	fi

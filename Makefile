# SPDX-License-Identifier: MPL-2.0
#
# Needs Go, git, make and a shell. If there is a C compiler, the tests use the race detector.

NAME    := vault-plugin-secrets-databricks

# The commands that are released, as far as they exist, the plugin first.
PRODUCTS  := $(filter $(notdir $(wildcard cmd/*)),$(NAME) databricks-vault-metadata)
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

# What a binary says it was built from. These have a value when something is built, and only then.
VERSION     = $(eval VERSION := $(shell scripts/version.sh))$(VERSION)
REVISION    = $(shell git rev-parse --verify --quiet HEAD 2>/dev/null)
COMMIT_TIME = $(shell TZ=UTC git -c log.showSignature=false log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd 2>/dev/null)
DIRTY       = $(if $(REVISION),$(if $(shell git status --porcelain --untracked-files=normal),true,false))
STAMP       = $(NAME)/internal/provenance
LDFLAGS     = -s -w -X $(NAME).Version=$(VERSION) -X main.version=$(VERSION) -X $(STAMP).revision=$(REVISION) \
              -X $(STAMP).commitTime=$(COMMIT_TIME) -X $(STAMP).dirty=$(DIRTY)

GO_BUILD := CGO_ENABLED=0 go build -trimpath -buildvcs=false

# The race detector needs cgo, which Go disables if it finds no C compiler.
RACE     := $(if $(filter 1,$(shell go env CGO_ENABLED 2>/dev/null)),-race)
# The tests make much garbage and need little memory.
TEST_GOGC   ?= 400
E2E_TIMEOUT ?= 20m
E2E_RUN     ?= .
FUZZTIME    ?= 10s
BENCH       ?= .

.DEFAULT_GOAL := help
.PHONY: help build test check test-unit test-e2e test-page test-chaos screenshots chaos storm soak test-load lint cover bench bench-vault fuzz docs vault demo dev release clean distclean no-race-note

help: ## list the commands
	@echo "Usage: make <command>"; echo; echo "Commands:"
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r c d; do printf '  %-10s  %s\n' $$c "$$d"; done

build: ## build the plugin, the metadata service and the simulated workspace into bin/
	@mkdir -p bin
	$(GO_BUILD) -ldflags '$(LDFLAGS)' -o bin/$(NAME) ./cmd/$(NAME)
	$(GO_BUILD) -ldflags '$(LDFLAGS)' -o bin/databricks-simulator ./cmd/databricks-simulator
	$(GO_BUILD) -ldflags '$(LDFLAGS)' -o bin/databricks-vault-metadata ./cmd/databricks-vault-metadata

test: lint test-unit test-page test-e2e test-chaos ## run all checks: lint, unit tests, the page in a browser, tests on a real Vault server, and a short run of chaos

check: ## run what should pass before a commit, quickly: gofmt, go vet, staticcheck, short unit tests
	@scripts/check.sh

test-unit: no-race-note ## run the unit tests, with the race detector if there is a C compiler
	GOGC=$(TEST_GOGC) go test $(RACE) -timeout 20m ./...
	go test -C test/tools -timeout 10m ./...

test-e2e: no-race-note ## run the tests on a real Vault server; E2E_RUN=<regexp> selects tests
	@scripts/not-tested.sh
	@vault=$$(scripts/find-vault.sh) && echo "VAULT_BIN=$$vault go test -tags e2e ./test/e2e/" && \
	VAULT_BIN=$$vault go test $(RACE) -tags e2e -count=1 -parallel 16 -timeout $(E2E_TIMEOUT) -run '$(E2E_RUN)' ./test/e2e/

test-chaos: ## run chaos with a few dozen kills, which takes about 5 minutes
	@vault=$$(scripts/find-vault.sh) && VAULT_BIN=$$vault go test -tags e2e -count=1 ./test/cluster/ && \
	VAULT_BIN=$$vault KILLS=$${KILLS:-36} FAILOVERS=$${FAILOVERS:-4} go run ./test/chaos -patience 5m

chaos: ## kill plugin and Vault at random, and check what is left; KILLS=1000 FAILOVERS=20 SEED=<n>
	@vault=$$(scripts/find-vault.sh) && \
	VAULT_BIN=$$vault KILLS=$${KILLS:-1000} FAILOVERS=$${FAILOVERS:-20} go run ./test/chaos -keep

# Named without a package, go test shows what the tests say even if they pass.
test-page: ## test the page of the simulated workspace in headless Chromium; says so if there is none
	cd test/page && go test -count=1 -timeout 5m

screenshots: build ## take the pictures of that page for docs/; needs Chromium
	@vault=$$(scripts/find-vault.sh) && cd test/page && VAULT_BIN=$$vault go run ./screenshots

lint: ## check gofmt, go vet, staticcheck, shell syntax and tidy modules
	@scripts/lint.sh

cover: no-race-note ## measure unit test coverage; fails below 95 %, writes cover.html
	@RACE=$(RACE) scripts/cover.sh

bench: ## run the benchmarks; BENCH=<regexp> selects benchmarks
	go test -run '^$$' -bench '$(BENCH)' -benchmem ./...

bench-vault: build ## measure against a null plugin on a real Vault, and write docs/benchmarks.md; ROUNDS=3 N=4000 TERRAFORM=<binary of HashiCorp's engine>
	@vault=$$(scripts/find-vault.sh) && cd test/floor && \
	go run ./bench -vault $$vault -plugin $(CURDIR)/bin/$(NAME) -rounds $${ROUNDS:-3} -n $${N:-4000} -terraform "$$TERRAFORM" -docs $(CURDIR)/docs

fuzz: ## run every fuzz target for FUZZTIME (10s) each
	@FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

storm: ## revoke LEASES=10000 while Databricks throttles; CLIENTS=64 SEED=1 LIMIT=2m
	go run ./test/load storm

soak: ## mint and revoke for DURATION=10m or MINTS=<n>, and plot the plugin's memory
	go run ./test/load soak

test-load: ## run a short storm and a short soak
	LEASES=300 go run ./test/load storm
	DURATION=5s SAMPLE=250ms OUT=test/load/out/short go run ./test/load soak

docs: ## write the pages of docs/ that are generated from the code
	go test -run TestGeneratedDocs -update .

vault: ## find Vault, or build it once, and print its path
	@scripts/find-vault.sh

demo: build ## run a guided tour on a separate Vault server; set DATABRICKS_HOST and DATABRICKS_TOKEN for a real workspace
	@scripts/demo.sh

dev: build ## set up like the demo, then keep Vault running until Ctrl-C
	@scripts/demo.sh --stay

release: ## build archives, checksums, SBOMs and an OCI image of this commit into dist/; PLATFORMS="linux/amd64 …"
	@go run -C test/tools ./release -root '$(CURDIR)' -out '$(CURDIR)/dist' -version '$(VERSION)' -revision '$(REVISION)' \
	-time '$(COMMIT_TIME)' -platforms '$(PLATFORMS)' -ldflags '$(LDFLAGS)' $(PRODUCTS)

clean: ## remove the files that the build and the tests wrote
	rm -rf bin dist cover.out cover.html

distclean: clean ## also remove the Vault binary that was built (.cache/)
	rm -rf .cache

no-race-note:
ifeq ($(RACE),)
	@echo "note: no C compiler (go env CGO_ENABLED is 0), so the tests run without the race detector"
endif

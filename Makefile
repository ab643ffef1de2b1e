# The few commands a person needs. Each does its own set-up.

.PHONY: run test check bench fmt

run: ## build and start the server on http://127.0.0.1:7423
	cargo run --release --locked -p stacyvm -- serve

test: ## everything that CI checks
	./scripts/test

check: ## the quick part: types, lints, formatting
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --features stacyvm/failpoints -- -D warnings

bench: ## the table of docs/performance.md
	./scripts/bench

fmt:
	cargo fmt --all

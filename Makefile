# Sublet: `make run` starts everything on this machine, `make test` checks everything.
# Both need only Python 3.11, make and git.

PYTHON ?= python3
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run test lint format screenshots requirements

help: ## Show these commands
	@sed -n 's/^\([a-z]*\):.*## /\1  /p' Makefile | awk '{ name = $$1; $$1 = ""; printf "make %-14s%s\n", name, $$0 }'

run: ## Start Sublet with its own PostgreSQL, Valkey and demo cloud on http://localhost:$PORT (8000)
	@sh scripts/install requirements-local.txt "$(PYTHON)"
	@exec .venv/bin/python -m portal.local

test: ## Run every check and test, with services of its own
	@sh scripts/install requirements-dev.txt "$(PYTHON)"
	@exec .venv/bin/python -m tests.run

lint: ## Run only the checks that need no services
	@sh scripts/install requirements-dev.txt "$(PYTHON)"
	@exec .venv/bin/python -m tests.run --lint

format: ## Put the code into the agreed format
	@sh scripts/install requirements-dev.txt "$(PYTHON)"
	@.venv/bin/ruff format . && .venv/bin/ruff check --fix .

screenshots: ## Make the pictures in docs/ anew, from the demo
	@sh scripts/install requirements-dev.txt "$(PYTHON)"
	@exec .venv/bin/python -m docs.screenshots

requirements: ## Pin the newest versions that the requirements*.in files allow
	@sh scripts/install requirements-dev.txt "$(PYTHON)"
	@sh scripts/pin --upgrade

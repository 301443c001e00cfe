# `make demo` shows what the program does; `make test` proves it. Both install what they need.

SHELL := /bin/sh
# Where rustup puts Rust, and where a user's shell does not look for ip, nft and dnsmasq.
export PATH := $(HOME)/.cargo/bin:$(PATH):/usr/sbin:/sbin
CARGO ?= cargo
# Namespaces, mounts and ptrace in tests want root; compiling does not.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
ifneq ($(SUDO),)
# sudo drops LD_LIBRARY_PATH, by which a test finds the libuci that was built for it.
RUNNER := --config 'target."cfg(all())".runner = ["sh", "-c", \
	"exec sudo -E LD_LIBRARY_PATH=\"$$LD_LIBRARY_PATH\" \"$$0\" \"$$@\""]'
endif
SCRIPTS := .ci/run .ci/setup openwrt/test.sh tests/vm/mips.build
# For BusyBox's shell. Debian's shellcheck has no dialect of that name yet; dash, its relative, is closest.
ROUTER_SCRIPTS := $(addprefix openwrt/files/,etc/init.d/vpn-killswitch etc/hotplug.d/iface/15-vpn-killswitch \
	etc/hotplug.d/net/15-vpn-killswitch etc/uci-defaults/zz-vpn-killswitch \
	usr/libexec/vpn-killswitch-firewall) $(wildcard cross/install/*.sh) \
	$(addprefix tests/firmware/,common.sh ddwrt merlin nvram tomato)

.PHONY: all build demo test lint unit test-packages test-luci test-cross package packages release test-vm leaktest soak bench binaries binary size deny clean setup setup-build setup-demo setup-cross setup-vm setup-vm-mips

all: build

build: setup-build ## the program: target/release/vpn-killswitch
	$(CARGO) build --release --locked

demo: setup-demo ## one evening in a house, without and with the kill switch
	$(CARGO) build --release --locked --features demo --bin vpn-killswitch --bin demo
	$(SUDO) target/release/demo

test: setup lint unit test-packages test-luci test-cross test-vm ## everything that must hold

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets --features demo -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items --quiet
	shellcheck -s sh $(SCRIPTS)
	shellcheck -s dash $(ROUTER_SCRIPTS)
	mandoc -T lint -W warning docs/vpn-killswitch.8
	cd luci-app && tests/node_modules/.bin/eslint -c tests/eslint.config.mjs htdocs tests

unit:
	$(CARGO) test --locked --no-fail-fast $(RUNNER)

test-packages: setup ## what the packages contain, and what installing, upgrading and removing them does
	$(CARGO) build --locked --bin vpn-killswitch
	strip -o target/debug/vpn-killswitch.stripped target/debug/vpn-killswitch
	$(SUDO) env PROGRAM=target/debug/vpn-killswitch.stripped python3 -m unittest discover -s cross

test-luci: setup ## LuCI's page; with LUCI=<a checkout of LuCI> also in a browser (pictures: target/luci-shots)
	$(CARGO) build --locked --bin vpn-killswitch
	node --test luci-app/tests/logic.test.mjs luci-app/tests/package.test.mjs luci-app/tests/rules.test.mjs
ifdef LUCI
	@sh .ci/setup browser
	$(SUDO) env LUCI="$(abspath $(LUCI))" unshare --net node --test luci-app/tests/browser.test.mjs
else
	@echo "The browser tests of LuCI's page were NOT RUN: they want make test-luci LUCI=<a checkout of LuCI>."
endif

package: binary ## the packages for TARGET=, one of OpenWrt's architectures: dist/packages/
	cross/package --target "$(TARGET)"

packages: binaries ## the packages for every architecture in cross/targets.toml
	cross/package

release: binaries ## installers and programs for DD-WRT, FreshTomato, Asuswrt-Merlin, Entware, old OpenWrt: dist/release/
	cross/release

test-cross: setup-cross ## that a cross-built program has the same bytes from another folder
	cross/build --scenario --check-reproducible x86_64

test-vm: setup-vm $(if $(filter mips,$(ARCH)),setup-vm-mips) ## a router's life on real kernels of other CPUs, emulated: ARCH=NAME or all
	tests/vm/run $(or $(ARCH),mipsel x86_64)

leaktest: setup ## only real packets through real routers: what leaks, and what lives on
	$(CARGO) test --locked --no-fail-fast $(RUNNER) --test leaks --test life

soak: setup ## random events under continuous traffic, for SOAK_SECONDS (SOAK_SEED repeats a run)
	SOAK_SECONDS=$${SOAK_SECONDS:-600} $(CARGO) test --locked $(RUNNER) --test soak

bench: setup ## what it costs, as ratios measured in one run
	$(CARGO) build --release --locked --bin vpn-killswitch
	$(CARGO) bench --locked $(RUNNER)

deny: ## licences and sources of what is linked in (needs cargo-deny)
	$(CARGO) fetch --locked
	$(CARGO) deny --offline check bans licenses sources

binaries: setup-cross ## the program for all routers' CPUs: dist/bin/*/vpn-killswitch
	cross/build

binary: setup-cross ## the program for one of them: make binary TARGET=mipsel_24kc
	cross/build $(or $(TARGET),$(error TARGET= is missing; cross/build --list names them))

size: setup-cross ## what takes the room in it (TARGET= for another than mipsel_24kc)
	cross/build --size $(or $(TARGET),mipsel_24kc)

setup:
	@sh .ci/setup

setup-build setup-demo setup-cross setup-vm setup-vm-mips:
	@sh .ci/setup $(@:setup-%=%)

clean:
	$(CARGO) clean

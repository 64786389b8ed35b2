# "make" lists what can be made. Everything a target needs is installed by it, on a
# Debian machine, as root; see .ci/setup.

export PATH := $(PATH):$(HOME)/.cargo/bin
CARGO ?= cargo
target := $(or $(CARGO_TARGET_DIR),target)

prefix ?= /usr
sbindir ?= $(prefix)/sbin
mandir ?= $(prefix)/share/man
docdir ?= $(prefix)/share/doc/qemu-ga-rs
unitdir ?= $(prefix)/lib/systemd/system
rulesdir ?= $(prefix)/lib/udev/rules.d
sysconfdir ?= /etc
hookdir ?= $(sysconfdir)/qemu
# "yes" on systems with OpenRC.
openrc ?= no
INSTALL ?= install

.DEFAULT_GOAL := help

help: ## This list
	@sed -n 's/^\([a-z-]*\):.* ## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

demo: ## Boot a guest and play the classic session with the agent in it
	.ci/setup build guest
	$(CARGO) build --release --locked
	$(CARGO) run --release --locked --example demo

test: ## All tests, those in guests included
	.ci/setup build guest servers libvirt
	.ci/test

check: ## Formatting and lints
	.ci/setup build
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets --all-features -- -D warnings

fuzz: ## A minute of fuzzing for each target in fuzz/
	.ci/setup build
	command -v cargo-fuzz >/dev/null || $(CARGO) install --locked cargo-fuzz
	for fuzzed in $$(sed -n 's/^name = "\([a-z]*\)"$$/\1/p' fuzz/Cargo.toml); do \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --sanitizer none $$fuzzed -- -max_total_time=60 || exit 1; \
	done

build: ## The agent, target/release/qemu-ga
	.ci/setup build
	$(CARGO) build --release --locked

deb: ## A Debian package, in target/debian
	.ci/setup build package
	$(CARGO) deb --locked

install: ## Install what "make build" made (DESTDIR, prefix, sbindir, openrc=yes, ...)
	@test -x $(target)/release/qemu-ga || { echo 'run "make build" first'; exit 1; }
	$(INSTALL) -D -m 755 $(target)/release/qemu-ga $(DESTDIR)$(sbindir)/qemu-ga
	$(INSTALL) -D -m 644 packaging/man/qemu-ga.8 $(DESTDIR)$(mandir)/man8/qemu-ga.8
	$(INSTALL) -d $(DESTDIR)$(unitdir)
	sed 's,/usr/sbin/qemu-ga,$(sbindir)/qemu-ga,' systemd/qemu-guest-agent.service \
		>$(DESTDIR)$(unitdir)/qemu-guest-agent.service
	chmod 644 $(DESTDIR)$(unitdir)/qemu-guest-agent.service
	$(INSTALL) -D -m 644 systemd/60-qemu-guest-agent.rules $(DESTDIR)$(rulesdir)/60-qemu-guest-agent.rules
ifeq ($(openrc),yes)
	$(INSTALL) -D -m 755 packaging/openrc/qemu-guest-agent $(DESTDIR)$(sysconfdir)/init.d/qemu-guest-agent
	test -e $(DESTDIR)$(sysconfdir)/conf.d/qemu-guest-agent || \
		$(INSTALL) -D -m 644 packaging/openrc/qemu-guest-agent.confd $(DESTDIR)$(sysconfdir)/conf.d/qemu-guest-agent
else
	$(INSTALL) -D -m 755 packaging/sysv/qemu-ga $(DESTDIR)$(sysconfdir)/init.d/qemu-guest-agent
	ln -sf qemu-guest-agent $(DESTDIR)$(sysconfdir)/init.d/qemu-ga
endif
	test -e $(DESTDIR)$(hookdir)/fsfreeze-hook || \
		$(INSTALL) -D -m 755 packaging/fsfreeze-hook $(DESTDIR)$(hookdir)/fsfreeze-hook
	$(INSTALL) -D -m 644 packaging/fsfreeze-hook.d/README $(DESTDIR)$(hookdir)/fsfreeze-hook.d/README
	$(INSTALL) -d $(DESTDIR)$(docdir)/examples/fsfreeze-hook.d $(DESTDIR)$(docdir)/examples/systemd
	$(INSTALL) -m 644 packaging/qemu-ga.conf $(DESTDIR)$(docdir)/examples
	$(INSTALL) -m 644 packaging/fsfreeze-hook.d/*.sample $(DESTDIR)$(docdir)/examples/fsfreeze-hook.d
	$(INSTALL) -m 644 systemd/examples/* $(DESTDIR)$(docdir)/examples/systemd
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then \
		systemctl daemon-reload; systemctl enable qemu-guest-agent.service; \
		udevadm control --reload; udevadm trigger --subsystem-match=virtio-ports; \
	fi

uninstall: ## Remove what "make install" installed, except from /etc/qemu
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then \
		systemctl disable --now qemu-guest-agent.service; \
	fi
	rm -f $(DESTDIR)$(sbindir)/qemu-ga $(DESTDIR)$(mandir)/man8/qemu-ga.8
	rm -f $(DESTDIR)$(unitdir)/qemu-guest-agent.service $(DESTDIR)$(rulesdir)/60-qemu-guest-agent.rules
	rm -f $(DESTDIR)$(sysconfdir)/init.d/qemu-guest-agent $(DESTDIR)$(sysconfdir)/init.d/qemu-ga
	rm -rf $(DESTDIR)$(docdir)

clean: ## Remove everything that was built, the guest images included
	$(CARGO) clean

.PHONY: help demo test check fuzz build deb install uninstall clean

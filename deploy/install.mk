# make -f deploy/install.mk install [DESTDIR=DIR] [BIN_DIR=DIR]: puts everything in its place. Both packages are made with it.
# make -f deploy/install.mk uninstall: removes it again, and keeps /etc/picoseg and /var/lib/picoseg.
BIN_DIR ?= target/release
# Where Debian's zsh looks; others have /usr/share/zsh/site-functions.
ZSH_DIR ?= /usr/share/zsh/vendor-completions

programs := picosegd picoseg picoseg-execd
units := $(wildcard systemd/*.service systemd/*.socket systemd/*.timer systemd/*.target)
doc := $(DESTDIR)/usr/share/doc/picoseg
file := install -D -m 644

.PHONY: install uninstall
install:
	install -D -m 755 -t $(DESTDIR)/usr/bin $(addprefix $(BIN_DIR)/,$(programs))
	$(file) -t $(DESTDIR)/usr/lib/systemd/system $(units)
	$(foreach kind,sysusers.d tmpfiles.d sysctl.d,$(foreach one,$(wildcard systemd/$(kind)/*.conf),\
		$(file) -t $(DESTDIR)/usr/lib/$(kind) $(one) &&)) :
	install -d $(addprefix $(DESTDIR)/etc/picoseg/,services.d segments.d lists)
	[ -z "$(DESTDIR)" ] && [ -e /etc/picoseg/picoseg.toml ] || $(file) -t $(DESTDIR)/etc/picoseg config/picoseg.toml
	$(foreach section,1 5 8,$(file) -t $(DESTDIR)/usr/share/man/man$(section) $(wildcard docs/man/*.$(section)) &&) :
	install -d $(DESTDIR)/usr/share/bash-completion/completions $(DESTDIR)$(ZSH_DIR) $(DESTDIR)/usr/share/fish/vendor_completions.d
	$(BIN_DIR)/picoseg completions bash >$(DESTDIR)/usr/share/bash-completion/completions/picoseg
	$(BIN_DIR)/picoseg completions zsh >$(DESTDIR)$(ZSH_DIR)/_picoseg
	$(BIN_DIR)/picoseg completions fish >$(DESTDIR)/usr/share/fish/vendor_completions.d/picoseg.fish
	$(file) -t $(doc) README.md CHANGELOG.md $(wildcard third-party.txt)
	$(file) -t $(doc)/docs $(wildcard docs/*.md docs/*.json)
	$(file) -t $(doc)/docs/operate $(wildcard docs/operate/*.md)
	$(file) -t $(doc)/deploy deploy/README.md
	$(file) -t $(doc)/deploy/grafana deploy/grafana/picoseg.json
	$(file) -t $(doc)/deploy/prometheus $(wildcard deploy/prometheus/*.yml)
	$(file) -t $(doc)/examples/services.d $(wildcard config/services.d/*)
	$(file) -t $(doc)/examples/segments.d $(wildcard config/segments.d/*)

uninstall:
	[ ! -d /run/systemd/system ] || systemctl disable --now $(notdir $(units))
	rm -f $(addprefix $(DESTDIR)/usr/bin/,$(programs)) $(addprefix $(DESTDIR)/usr/lib/systemd/system/,$(notdir $(units)))
	rm -f $(foreach kind,sysusers.d tmpfiles.d sysctl.d,$(addprefix $(DESTDIR)/usr/lib/$(kind)/,$(notdir $(wildcard systemd/$(kind)/*.conf))))
	rm -f $(foreach section,1 5 8,$(addprefix $(DESTDIR)/usr/share/man/man$(section)/,$(notdir $(wildcard docs/man/*.$(section)))))
	rm -f $(DESTDIR)/usr/share/bash-completion/completions/picoseg $(DESTDIR)$(ZSH_DIR)/_picoseg
	rm -f $(DESTDIR)/usr/share/fish/vendor_completions.d/picoseg.fish
	rm -rf $(doc)

# Stands in for LuCI's luci.mk: htdocs/ goes to /www, root/ to /, each po/LANGUAGE/ to a package of
# its own. Scripts are not minified here.

include $(INCLUDE_DIR)/package.mk

LUCI_LANGUAGES:=$(sort $(filter-out templates,$(notdir $(wildcard po/*))))
LUCI_I18N:=$(patsubst luci-app-%,luci-i18n-%,$(PKG_NAME))

# How a language calls itself in LuCI's menu of languages. One that is missing here is an error.
LUCI_LANG.cs:=Čeština (Czech)
LUCI_LANG.de:=Deutsch (German)
LUCI_LANG.es:=Español (Spanish)
LUCI_LANG.fr:=Français (French)
LUCI_LANG.it:=Italiano (Italian)
LUCI_LANG.nl:=Nederlands (Dutch)
LUCI_LANG.pl:=Polski (Polish)
LUCI_LANG.ru:=Русский (Russian)
LUCI_LANG.tr:=Türkçe (Turkish)
LUCI_LANG.uk:=Українська (Ukrainian)
LUCI_LANG.zh_Hans:=简体中文 (Simplified Chinese)
LUCI_LC_ALIAS.zh_Hans:=zh-cn

define Package/$(PKG_NAME)
  SECTION:=luci
  DEPENDS:=$(LUCI_DEPENDS)
  PKGARCH:=$(LUCI_PKGARCH)
  URL:=$(LUCI_URL)
  MAINTAINER:=$(LUCI_MAINTAINER)
endef

define Package/$(PKG_NAME)/description
  $(LUCI_DESCRIPTION)
endef

define Package/$(PKG_NAME)/install
	[ ! -d htdocs ] || { $(INSTALL_DIR) $(1)/www && $(CP) htdocs/. $(1)/www/; }
	[ ! -d root ] || $(CP) root/. $(1)/
	chmod -R u=rwX,go=rX $(1)
endef

# 1: the language as LuCI calls it; 2: its folder below po/
define LuciTranslation
  define Package/$(LUCI_I18N)-$(1)
    SECTION:=luci
    DEPENDS:=$(PKG_NAME)
    PKGARCH:=all
    VERSION:=$(PKG_PO_VERSION)
    MAINTAINER:=$(LUCI_MAINTAINER)
  endef

  define Package/$(LUCI_I18N)-$(1)/description
    Translation for $(PKG_NAME) - $(or $(LUCI_LANG.$(2)),$(error no name for the language $(2)))
  endef

  define Package/$(LUCI_I18N)-$(1)/install
	$$(INSTALL_DIR) $$(1)/etc/uci-defaults $$(1)/usr/lib/lua/luci/i18n
	echo "uci set luci.languages.$(subst -,_,$(1))='$(LUCI_LANG.$(2))'; uci commit luci" \
		> $$(1)/etc/uci-defaults/$(LUCI_I18N)-$(1)
	set -e; $(foreach po,$(wildcard po/$(2)/*.po),$$(PO2LMO) $(po) \
		$$(1)/usr/lib/lua/luci/i18n/$(basename $(notdir $(po))).$(1).lmo;)
	chmod -R u=rwX,go=rX $$(1)
  endef

  LUCI_PACKAGES += $(LUCI_I18N)-$(1)
endef

LUCI_PACKAGES:=$(PKG_NAME)
$(foreach language,$(LUCI_LANGUAGES),$(eval $(call \
	LuciTranslation,$(or $(LUCI_LC_ALIAS.$(language)),$(language)),$(language))))
$(foreach package,$(LUCI_PACKAGES),$(eval $(call BuildPackage,$(package))))

# Stands in for OpenWrt's package.mk. A package's definitions are written down below $(OUT), and
# `make stage` runs its install recipe into $(OUT)/NAME/root, so that the feed's Makefiles are the
# only place that says what is in a package and what it depends on.
#
# Given: OUT, the folder to write to; PKG_INSTALL_DIR, where a build would have put bin/.

FIELDS:=VERSION DEPENDS PKGARCH SECTION URL MAINTAINER
TEXTS:=description conffiles postinst prerm

# A translation has a version of its own.
define BuildPackage
  $(eval VERSION:=$(PKG_VERSION)-r$(PKG_RELEASE))
  $(eval MAINTAINER:=$(PKG_MAINTAINER))
  $(foreach field,DEPENDS PKGARCH SECTION URL,$(eval $(field):=))
  $(eval $(Package/$(1)))
  $(shell mkdir -p $(OUT)/$(1)/root)
  $(foreach field,$(FIELDS),$(file >$(OUT)/$(1)/$(field),$($(field))))
  $(file >$(OUT)/$(1)/LICENSE,$(PKG_LICENSE))
  $(file >$(OUT)/$(1)/SOURCENAME,$(PKG_NAME))
  $(foreach text,$(TEXTS),$(if $(value Package/$(1)/$(text)),$(file \
	>$(OUT)/$(1)/$(text),$(Package/$(1)/$(text)))))
stage::
	$(call Package/$(1)/install,$(OUT)/$(1)/root)
endef
